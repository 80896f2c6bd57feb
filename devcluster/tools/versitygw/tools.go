//go:build tools

// Package tools pins the versitygw program that devcluster builds.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
