// Package stats defines what a host observes: typed events as they happen, and
// snapshots of what has happened so far.
//
// An [Observer] receives every [Event] of an instance. A [Snapshot] holds an instance's
// [State], totals and newest runs. [LogTo] logs events, [Multi] passes them to several
// observers, [Summarize] turns snapshots into the answer of a health endpoint, and
// [WriteTable] prints them. The package imports only the standard library.
package stats
