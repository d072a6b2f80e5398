//go:build !windows

package spool

import "syscall"

const errShort = syscall.EMFILE
