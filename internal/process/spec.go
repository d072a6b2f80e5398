package process

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// RunEnv is the environment variable by which a child, and what it starts in turn, can be proven to belong to a run.
const RunEnv = "OSQVISOR_RUN_ID"

// MaxLine is the longest line of output, in bytes, that is passed on; the rest of a longer one is dropped and counted.
const MaxLine = 64 << 10

// defaultDrainGrace is how long output is read on after the child ended, when somebody still holds its pipes.
const defaultDrainGrace = time.Second

// Spec sets what to start and how. It is not changed by Start.
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
	// Stdout and Stderr are called with each line without its end, from one goroutine each, in order, and never after Exited is
	// closed. The slice is valid during the call only. They must return soon: the child blocks on a full pipe
	// meanwhile, and Exited waits for them. They must not wait for Exited. Nil drops the output, which is read anyhow.
	Stdout, Stderr func(line []byte)
	// Output, if not nil, is called with the lines of both streams, as Stdout and Stderr would, which must be nil then. One pipe and
	// one goroutine serve both, and the order in which the child wrote is kept between them.
	Output func(line []byte)
	// MaxOutput bounds what the child may write to one stream, in bytes. One that writes more is killed with its group, and
	// no further line is passed on. 0 means no bound.
	MaxOutput  uint64
	drainGrace time.Duration // bounds the reading after the child ended; 0 means defaultDrainGrace
	// spareGroup leaves alive what the child left behind in its group when it ended by itself. The default is to kill it
	// at that moment, because only until the child is reaped is its group number certain to be ours. It implies NoTether.
	// Windows ends all of it nonetheless, with the job.
	spareGroup bool
	// NoParentDeathSignal and NoTether turn off the two means by which Linux ends the child with its host.
	NoParentDeathSignal, NoTether bool
}

// Exit reports how a child ended.
type Exit struct {
	// Code is the exit code, or -1 if the child was ended by a signal or the code is unknown.
	Code int
	// Signal is the name of the signal that ended it, such as SIGKILL, or empty. Windows has none.
	Signal string
	// Started and Ended are when the child was started and when its end was noticed.
	Started, Ended time.Time
	// TooMuchOutput is set when it wrote more than Spec.MaxOutput, for which it was killed.
	TooMuchOutput bool
	// Err is not nil when the exit status is unknown, because something else in the host waited for the child.
	Err error
	// GroupErr is not nil when what the child left in its group could not be killed. See groupAlive for whether it matters.
	GroupErr error
}

func (s *Spec) validate() error {
	switch {
	case !filepath.IsAbs(s.Path):
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "the path of the binary must be absolute"}
	case len(s.Args) == 0:
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "the arguments must begin with argv[0]"}
	case s.Output != nil && (s.Stdout != nil || s.Stderr != nil):
		return &StartError{Path: s.Path, Kind: ErrSpec, Hint: "either Output or Stdout and Stderr may be set, not both"}
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

// CleanEnv returns base without the variables that control osqueryd: OSQUERY_WORKER alone would turn a daemon into a
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

// The kinds of a StartError.
var (
	// ErrSpec means that the Spec itself is unusable.
	ErrSpec = errors.New("unusable process spec")
	// ErrBinaryNotFound means that the binary does not exist.
	ErrBinaryNotFound = errors.New("binary not found")
	// ErrPermission means that the operating system refuses to execute the binary.
	ErrPermission = errors.New("binary may not be executed")
	// ErrNotExecutable means that the file is no program for this machine.
	ErrNotExecutable = errors.New("binary cannot run on this machine")
	// ErrTextBusy means that the binary stayed open for writing through all retries.
	ErrTextBusy = errors.New("binary is being written to")
	// ErrDir means that the working directory is unusable.
	ErrDir = errors.New("working directory is unusable")
	// ErrResources means that the machine or a limit has no process, memory or descriptor left.
	ErrResources = errors.New("out of processes, memory or descriptors")
	// ErrStart is the kind of every other failure.
	ErrStart = errors.New("process could not be started")
)

// StartError reports why a process could not be started and what to do. errors.Is matches both Kind and Err.
type StartError struct {
	// Path is the binary.
	Path string
	// Kind is one of the sentinels of this package, such as ErrBinaryNotFound.
	Kind error
	// Hint is what to do; it may be empty.
	Hint string
	// Err is the operating system's error; it may be nil.
	Err error
}

// Error returns kind, path, cause and hint in one line.
func (e *StartError) Error() string {
	text := fmt.Sprintf("start %s: %v", e.Path, e.Kind)
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Unwrap returns Kind and, when there is one, Err.
func (e *StartError) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
