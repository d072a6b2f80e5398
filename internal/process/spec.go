package process

import (
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// RunEnv is the environment variable by which a child, and what it starts in turn, can be proven to belong to a run.
const RunEnv = "OSQVISOR_RUN_ID"

// MaxLine is the longest line of output, in bytes, that is passed on; the rest of a longer one is dropped and counted.
const MaxLine = 64 << 10

// DefaultDrainGrace is how long output is read on after the child ended, when somebody still holds its pipes.
const DefaultDrainGrace = time.Second

// Spec says what to start and how. It is not changed by Start.
type Spec struct {
	// Path is the absolute path of the binary.
	Path string
	// Args is the argument list including argv[0]; it must not be empty.
	Args []string
	// Env is the whole environment: nothing is inherited. Start appends RunEnv to it.
	Env []string
	// Dir is the working directory; empty means the host's.
	Dir string
	// RunID marks the child and its descendants through RunEnv. Empty means a random one.
	RunID string
	// Stdout and Stderr get each line without its end, from one goroutine each, in order, and never after Exited is
	// closed. The slice is valid during the call only. They must return soon: the child blocks on a full pipe
	// meanwhile, and Exited waits for them. They must not wait for Exited. Nil drops the output, which is read anyhow.
	Stdout, Stderr func(line []byte)
	// Output, if not nil, gets the lines of both streams, as Stdout and Stderr would, which must be nil then. One pipe and
	// one goroutine serve both, and the order in which the child wrote is kept between them.
	Output func(line []byte)
	// MaxOutput bounds what the child may write to one stream, in bytes. One that writes more is killed with its group, and
	// no further line is passed on. 0 means no bound.
	MaxOutput uint64
	// DrainGrace bounds the reading after the child ended; 0 means DefaultDrainGrace.
	DrainGrace time.Duration
	// SpareGroup leaves alive what the child left behind in its group when it ended by itself. The default is to kill it
	// at that moment, because only until the child is reaped is its group number certain to be ours. It implies NoTether.
	// Windows ends all of it nonetheless, with the job.
	SpareGroup bool
	// NoParentDeathSignal and NoTether turn off the two means by which Linux ends the child with its host.
	NoParentDeathSignal, NoTether bool
}

// Exit tells how a child ended.
type Exit struct {
	// Code is the exit code, or -1 if the child was ended by a signal or the code is unknown.
	Code int
	// Signal is the name of the signal that ended it, such as SIGKILL, or empty. Windows has none.
	Signal string
	// Started and Ended are when the child was started and when its end was noticed.
	Started, Ended time.Time
	// Err is not nil when the exit status is unknown, because something else in the host waited for the child.
	Err error
	// GroupErr is not nil when what the child left in its group could not be killed. See GroupAlive for whether it matters.
	GroupErr error
}

// Output counts what a child wrote to one stream.
type Output struct {
	// Bytes counts everything read, line ends included; Lines the lines passed on.
	Bytes, Lines uint64
	// Truncated counts lines longer than MaxLine.
	Truncated uint64
}

func (s *Spec) validate() error {
	switch {
	case !filepath.IsAbs(s.Path):
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "the path of the binary must be absolute"}
	case len(s.Args) == 0:
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "the arguments must begin with argv[0]"}
	case s.Output != nil && (s.Stdout != nil || s.Stderr != nil):
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "either Output or Stdout and Stderr may be set, not both"}
	case s.DrainGrace < 0:
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "the drain grace must not be negative"}
	}
	return nil
}

// environ is never nil: nil would mean the host's own environment to the standard library.
func (s *Spec) environ() []string {
	env := make([]string, 0, len(s.Env)+1)
	for _, entry := range s.Env {
		if !hasName(entry, RunEnv) {
			env = append(env, entry)
		}
	}
	return append(env, RunEnv+"="+s.RunID)
}

// CleanEnv returns base without the variables that steer osqueryd: OSQUERY_WORKER alone would turn a daemon into a
// worker. Names are compared without case on Windows. The result shares no memory with base and is never nil.
func CleanEnv(base []string) []string {
	clean := make([]string, 0, len(base))
	for _, entry := range base {
		if !hasPrefix(entry, "OSQUERY_") {
			clean = append(clean, entry)
		}
	}
	return clean
}

func hasName(entry, name string) bool { return hasPrefix(entry, name+"=") }

func hasPrefix(entry, prefix string) bool {
	if runtime.GOOS == "windows" {
		return len(entry) >= len(prefix) && strings.EqualFold(entry[:len(prefix)], prefix)
	}
	return strings.HasPrefix(entry, prefix)
}
