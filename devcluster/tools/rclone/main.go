// Command rclone serves a folder over S3 and does nothing else: the whole of rclone, with its
// backends for every cloud, takes minutes to build and gigabytes to download.
package main

import (
	_ "github.com/rclone/rclone/backend/local"
	"github.com/rclone/rclone/cmd"
	_ "github.com/rclone/rclone/cmd/serve/s3"
)

func main() {
	cmd.Main()
}
