// Package osctrltest runs the SDK against a real osctrl, a server that this project did
// not write, and compares what its database holds with what was delivered. The test runs
// by make test-osctrl, which starts everything it needs; see docs/servers.md.
package osctrltest
