// Package runtime supervises a set of osqueryd instances that may change at any
// moment.
//
// A [Runner] owns the set and nothing else: when an instance is started, when it
// is tried again, and when it is given up. How an osqueryd is started, watched
// and stopped is the business of package instance.
//
// Instances are supervised apart: each has a goroutine, a backoff and a budget of
// its own, and the failure, hang or slow transport of one never touches another.
// Changes of one instance (Add, Update, Remove) happen one at a time,
// those of different instances side by side.
package runtime
