//go:build !linux

package instance

// oomKills is 0: nobody tells.
func oomKills() uint64 { return 0 }
