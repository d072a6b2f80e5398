// Package stats is what osqvisor tells its host: typed events as they happen,
// and snapshots of what has happened so far.
//
// It is a leaf: it imports nothing but the standard library, so that a host
// can depend on it from anywhere. An [Observer] is handed every [Event] of an
// instance, one after the other, in order. A [Recorder] is an Observer that
// keeps the counters, the current [State] and a bounded history of runs of one
// instance, and gives them as a [Snapshot]. [LogTo] writes events to a
// [log/slog.Logger], [Multi] hands them to several observers, and [Summarize]
// turns snapshots into the one answer a health endpoint needs.
package stats
