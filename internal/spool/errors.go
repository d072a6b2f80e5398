package spool

import (
	"errors"
	"fmt"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("spool is closed")
	// ErrLocked is returned by Open when another process, or this one, has the directory open.
	ErrLocked = errors.New("spool is in use by another opener; close that one first")
	// ErrTooLarge is returned by Append for a line above Options.MaxRecord. Nothing was stored.
	ErrTooLarge = errors.New("line is larger than the spool's record limit; raise MaxRecord or drop the line")
	// ErrNoSpace is returned by Append when the disk or a quota is full. Nothing was stored; a later Append works when there
	// is room.
	ErrNoSpace = errors.New("no space left for the spool; free disk space or lower MaxBytes")
	// ErrIO is returned when the disk failed in another way. Nothing was stored or changed; a later call may work.
	ErrIO = errors.New("spool input or output failed; check the disk")
	// ErrNotSynced is returned by Append and Sync when the flush failed. The lines are stored and will be read, but a power
	// cut may take them.
	ErrNotSynced = errors.New("spool could not be flushed to disk")
	// ErrSequence is returned by Ack and Pin for a number that was never handed out.
	ErrSequence = errors.New("sequence number was never appended")
)

// typed wraps err in the sentinel that says what to do about it.
func typed(doing string, err error) error {
	if isNoSpace(err) {
		return fmt.Errorf("%s: %w: %w", doing, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrIO, err)
}
