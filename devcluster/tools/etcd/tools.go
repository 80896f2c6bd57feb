//go:build tools

// Package tools pins the etcd program that devcluster builds.
package tools

import _ "go.etcd.io/etcd/server/v3"
