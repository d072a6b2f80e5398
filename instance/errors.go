package instance

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// Errors that the methods of an Instance return, alone or wrapped.
var (
	// ErrRunning says that a run of this instance is under way already.
	ErrRunning = errors.New("the instance is running already")
	// ErrNotRunning says that no run is under way, so nothing can be asked.
	ErrNotRunning = errors.New("the instance is not running")
	// ErrParked says that whoever supervises the instance has given it up for now.
	ErrParked = errors.New("the instance is parked")
	// ErrClosed says that the instance was closed.
	ErrClosed = errors.New("the instance is closed")

	// ErrQueryWaiting reports that a query was given up before osqueryd had it: it did not run.
	ErrQueryWaiting = errors.New("the query was still waiting for its turn")
	// ErrQueryRunning reports that a query was given up while osqueryd ran it. osqueryd
	// cannot cancel a query and goes on with it.
	ErrQueryRunning = errors.New("osqueryd was still running the query")
	// ErrConnectionLost reports that osqueryd went away while it ran the query. Whether
	// the query finished is unknown.
	ErrConnectionLost = errors.New("osqueryd went away while it ran the query")
	// ErrAnswerTooLarge reports an answer above the limit; QueryEach has the same one.
	ErrAnswerTooLarge = errors.New("the answer is too large")
)

// ParkedError reports that an instance is parked: it failed too often, or for a cause
// that a new start does not change. errors.Is finds both ErrParked and ErrNotRunning in it.
type ParkedError struct {
	// Instance is the instance's id.
	Instance string
	// Cause is why its last run ended; empty when the history does not tell.
	Cause stats.Cause
	// LastError is the text of its last failure.
	LastError string
}

// Error names the instance, the cause and the last failure.
func (e *ParkedError) Error() string {
	s := fmt.Sprintf("instance %q: %v", e.Instance, ErrParked)
	if e.Cause != "" {
		s += " (" + string(e.Cause) + ")"
	}
	if e.LastError != "" {
		s += "; its last failure: " + e.LastError
	}
	return s
}

// Is reports true for ErrParked and ErrNotRunning.
func (e *ParkedError) Is(target error) bool { return target == ErrParked || target == ErrNotRunning }

// OptionError is a mistake in an option. New reports all of them at once,
// joined; errors.As finds the first.
type OptionError struct {
	// Option names the option, such as "WithBinary".
	Option string
	// Err says what is wrong with it and what to do.
	Err error
}

// Error names the option and says what is wrong.
func (e *OptionError) Error() string { return e.Option + ": " + e.Err.Error() }

// Unwrap gives the reason.
func (e *OptionError) Unwrap() error { return e.Err }

func optionErrorf(option, format string, args ...any) error {
	return &OptionError{Option: option, Err: fmt.Errorf(format, args...)}
}

// ExitError says why a run ended although nobody asked it to.
type ExitError struct {
	// Instance and Run name the run.
	Instance, Run string
	// Phase is how far the run had come.
	Phase stats.Phase
	// Cause is why it ended.
	Cause stats.Cause
	// Code is osqueryd's exit code, or -1 when it did not exit by itself.
	Code int
	// Signal names the signal that ended osqueryd; empty when none did.
	Signal string
	// Uptime is from spawn to exit; 0 when nothing was spawned.
	Uptime time.Duration
	// Stderr is the end of what osqueryd printed, oldest line first.
	Stderr []string
	// Said is the line of those that tells best why osqueryd ended; empty when none does.
	Said string
	// Hint says what to do about it.
	Hint string
	// Err is what failed on our side, if anything did.
	Err error
}

// Error returns one line for a log. Said is part of it.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "osqueryd of instance %q ended in phase %s: %s", e.Instance, e.Phase, e.Cause)
	switch {
	case e.Signal != "":
		fmt.Fprintf(&b, " (%s after %s)", e.Signal, e.Uptime.Round(time.Millisecond))
	case e.Uptime > 0 && e.Code >= 0:
		fmt.Fprintf(&b, " (exit code %d after %s)", e.Code, e.Uptime.Round(time.Millisecond))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Said != "" {
		fmt.Fprintf(&b, "; osqueryd said: %s", e.Said)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "; %s", e.Hint)
	}
	return b.String()
}

// Unwrap gives what failed on our side.
func (e *ExitError) Unwrap() error { return e.Err }
