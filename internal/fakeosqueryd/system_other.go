//go:build !linux

package fakeosqueryd

import (
	"os"
	"strconv"
	"strings"
)

// processTable knows the fake itself alone.
func processTable() rows {
	return rows{{
		"pid": strconv.Itoa(os.Getpid()), "name": "osqueryd", "path": os.Args[0], "cmdline": strings.Join(os.Args, " "),
		"state": "R", "parent": strconv.Itoa(os.Getppid()), "threads": "1",
	}}
}
