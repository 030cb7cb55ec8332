//go:build linux || darwin || freebsd

package node

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// freeSpace is the number of bytes that we may still write where dir is.
func freeSpace(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return uint64(max(s.Bavail, 0)) * uint64(s.Bsize), nil
}
