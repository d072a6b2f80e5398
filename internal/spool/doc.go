// Package spool is a durable queue of log lines on the local disk.
//
// Append writes one line to the end of a log of segment files, Read hands out the oldest lines that are not acknowledged, and
// Ack moves a cursor that is kept on disk. One process has a queue open at a time; one consumer acknowledges.
//
// # What holds
//
//   - A line whose Append returned no error survives kill -9 of the process. When it also survives a power cut is set by the
//     SyncPolicy.
//   - Sequence numbers start at 1, rise by one a line, and go on after a restart. A line that was evicted or damaged leaves a
//     gap; its number is never used for another line. The one exception: lines that a power cut removed from the end of the log
//     and that were never pinned or acknowledged were never seen outside, and their numbers are used again.
//   - Numbers count within an epoch, a random name that is kept in the cursor. Whenever nothing proves that the numbers go on
//     where they ended (a new directory, a cursor that was lost or has a damaged slot), another epoch begins, so that an
//     epoch and a number that was pinned together name one line for ever, on any host. A copy of the directory, such as in
//     the snapshot of a machine, is the same queue to this package: two copies that go on repeat each other's.
//   - A crash may repeat lines that were read, and never skips one that was not acknowledged.
//   - The segment files together never hold more than Options.MaxBytes. The oldest segment goes first, whole, and what it
//     held is counted and announced, so between MaxBytes-SegmentBytes and MaxBytes of the newest lines stay. Not in the sum:
//     the cursor file (8 KiB), and files that the operating system refuses to delete (Windows, while a reader has them open),
//     which are deleted at the next chance.
//   - Queues that share a Budget hold no more than it together, and do not grow while the disk has less room than is to be left.
//   - Damage of any kind is cut off or skipped, counted and reported. It never makes Open fail.
//
// # On disk
//
// A directory (0700) holds files (0600) of two kinds. "cursor" has two slots, each with a checksum, of which the one that was
// flushed last is never written over; it is also what the lock is on. "GENERATION-FIRST-SALT.spool" is a segment: records one
// after the other, nothing else. FIRST is the sequence number that the segment
// starts at. A record is, little-endian,
//
//	0  uint32  CRC-32C of bytes 4 to 20, started from SALT
//	4  uint32  length of the line in bytes
//	8  uint64  sequence number
//	16 uint32  CRC-32C of the line
//	20         the line
//
// The header has a checksum of its own, so that a damaged line costs that line only, and so that the next record can be found
// after a damaged header. SALT is random for every segment: a line that holds the bytes of a record is never mistaken for one.
package spool
