//go:build !(linux || darwin || freebsd)

package node

import "errors"

func freeSpace(string) (uint64, error) {
	return 0, errors.New("free space is not looked at on this system")
}
