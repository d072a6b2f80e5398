// Package runtime supervises a set of osqueryd instances that may change at any
// moment. It is not Go's own package of that name; a file that needs both imports one
// of them by another.
//
// A [Runner] owns the set and nothing else: when an instance is started, when it
// is tried again, and when it is given up. How an osqueryd is started, watched
// and stopped is the business of package instance.
//
// Instances are supervised apart: each has a goroutine, a backoff and a budget of
// its own, and the failure, hang or slow transport of one never touches another.
// Changes of one instance (Add, Update, Remove) happen one at a time,
// those of different instances side by side.
//
// # When a run fails
//
// The first failure of a run that was ready is followed by a new start at once, the
// next ones by waits that grow; a few causes, such as a locked database, wait in any
// case. Ten failures within ten minutes park the instance, as
// does at once a cause that a new start cannot help, such as a missing binary: it then
// stays down for a quarter of an hour, or until the binary has changed, or a full disk has
// room again, or until [Runner.Resume], Restart or Update. By default no instance is given
// up for good. Observers are told, and [Runner.Healthy] reports it. [WithRestart] sets all
// of that, for each cause apart if need be.
//
// # Code of the host
//
// Tables, transports and observers may call every method, but not wait for what waits
// for them: Remove, Restart, Update and WaitReady of their own instance, Query in one of
// its tables, SetTables in one of its tables, PushConfig in its transport's Config.
package runtime
