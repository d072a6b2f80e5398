// Package instance runs one osqueryd: an identity with a directory of its own,
// living through many runs.
//
// An [Instance] is made with [New], which validates everything and starts
// nothing. [Instance.Run] is one lifetime of its osqueryd: it prepares the
// directory, spawns the process, registers the instance's own extension, serves
// until it is told to stop or osqueryd dies, and returns only when nothing it
// made is left. It may be called again after it returned. Whether and when to
// do so is the business of package runtime; an Instance never restarts itself.
//
// While a run lives, the Instance mends what can be mended in place: when
// osqueryd replaces its worker, or forgets the extension, it is registered
// again and the run goes on.
package instance
