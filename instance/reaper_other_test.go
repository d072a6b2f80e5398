//go:build !linux

package instance_test

import "github.com/osqvisor/osqvisor/instance"

// reaperMain needs what only Linux has.
func reaperMain(*instance.Instance, int) {}
