//go:build !linux

package main

import "errors"

func mountSmall(string) (unmount func() error, err error) {
	return nil, errors.New("a small file system can be mounted on Linux alone")
}
