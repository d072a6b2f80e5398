// Package bench measures what a host pays for this SDK, next to plain osquery-go
// used as its README shows, and next to the floor: what osqueryd, the socket or the
// disk take by themselves.
//
// A [Group] measures one or more [Row] with the same set-up. Its steps take turns,
// round after round, so that all meet the same machine; medians are compared. See
// docs/benchmarks.md for what each row is and how to run them.
//
// It needs a Unix system.
package bench
