// Package testhelp holds what tests of several packages need: leak checks and
// waits that are bounded.
package testhelp
