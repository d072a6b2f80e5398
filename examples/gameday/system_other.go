//go:build !linux

package main

// systemKillsOrphans says that the kernel ends osqueryd with its host; here the next
// start does.
const systemKillsOrphans = false
