//go:build tools

// Package tools pins the kubeconform program that devcluster builds.
package tools

import _ "github.com/yannh/kubeconform/cmd/kubeconform"
