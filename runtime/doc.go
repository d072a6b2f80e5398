// Package runtime supervises a set of osqueryd instances that may change at any moment. It
// is not Go's own package of that name; a file that needs both renames one import.
//
// A [Runner] decides when an instance is started, restarted and parked; package instance
// starts, watches and stops it. Each instance has its own goroutine, backoff and budget, and
// none affects another. Changes of one instance (Add, Update, Remove) happen one at a time.
//
// # Restarts
//
// The first failure of a run that was ready is followed by a new start at once, further ones
// by growing waits. Ten failures within ten minutes park the instance, as does at once a
// cause that a restart cannot help, such as a missing binary. A parked instance is started
// again after 15 minutes, when its binary changed, when a full disk has room again, or by
// Resume, Restart or Update. [WithRestart] changes all of this.
//
// # Callbacks
//
// Tables, transports, observers and other callbacks of an instance may call any method except
// those that would deadlock: Remove, Purge, Restart, Update, Sync, SetDefaults and WaitReady
// of their own instance, Query and SetTables in its tables, PushConfig in its transport's
// Config.
package runtime
