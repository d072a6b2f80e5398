package main

import (
	"fmt"
	"syscall"
)

// mountSmall makes dir a file system of its own that can be filled up. It needs root.
func mountSmall(dir string) (unmount func() error, err error) {
	if err := syscall.Mount("gameday", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "size=64m,mode=0700"); err != nil {
		return nil, fmt.Errorf("a small file system of its own cannot be mounted, which takes root: %w", err)
	}
	return func() error {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		return nil
	}, nil
}
