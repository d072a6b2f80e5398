// Package stats defines what a host observes: typed events as they happen, and
// snapshots of what has happened so far.
//
// It imports nothing but the standard library, so that a host can depend on it from
// anywhere. An [Observer] receives every [Event] of an instance, one after the other,
// in order. A [Snapshot] holds an instance's [State], totals and newest runs. [LogTo]
// writes events to a [log/slog.Logger], [Multi] passes them to several observers,
// [Summarize] turns snapshots into the answer of a health endpoint, and [WriteTable]
// prints them.
package stats
