// Package process starts a child, knows it again later, contains it together with everything it starts, and ends all of it.
//
// Three ideas carry the package:
//
//   - An [Identity] is a pid and the start time the kernel keeps for it. Nothing is signalled that does not prove both.
//   - A [Process] is a child in a process group of its own (on Windows: a job object). It has exactly one owner
//     goroutine, which starts it, waits for it, ends what it left behind, drains its output and then closes
//     [Process.Exited].
//   - A [Lease] is the note a host leaves on disk about a child, so that the next host can [Reclaim] what a killed one
//     left behind.
//
// # When the host is killed
//
// Linux has two kernel means, and Start uses both. The parent-death signal kills the child; it belongs to the thread that
// forked, which is why that thread is locked until the child is gone, and it does not reach grandchildren. The tether does:
// a pipe whose write end only the host holds and whose read end the child inherits, armed so that the kernel sends
// SIGKILL to the child's whole process group when the last write end is closed, which the death of the host does. Both
// end the child as well when the host replaces itself by exec(2), and neither reaches a child that changed its user.
// On Windows the job object is closed with the host and ends everything in it. macOS has neither: there the lease is what
// cleans up, at the next start.
//
// # What a new system must bring
//
// One file, system_NAME.go. A Unix shares system_unix.go and adds: sysAttr, pinThread and awaitEnd (how a child is started and
// its end awaited without reaping it), tether, collectOrphans and lateOrphans (which may do nothing), probe, startedNotBefore,
// killProcess, killGroup and groupMembers (identities and groups), readMark, runsBinary and ending (what proves a member), and
// isWrongFormat. Any other system brings what system_windows.go does.
package process
