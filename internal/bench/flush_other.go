//go:build !linux

package bench

import "os"

// flush is the least that makes a write durable.
func flush(f *os.File) error { return f.Sync() }
