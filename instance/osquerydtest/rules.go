package osquerydtest

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// Phase is a point in the life of a fake process at which a Rule can act.
type Phase string

// The phases, in the order in which a process passes them. The watcher passes
// PhaseStart, the pidfile's two and PhaseStop; the worker all but the
// pidfile's; without a watchdog one process passes all.
const (
	PhaseStart          Phase = "start"           // before anything
	PhaseBeforePidfile  Phase = "before-pidfile"  //
	PhaseAfterPidfile   Phase = "after-pidfile"   // locked and written
	PhaseBeforeDatabase Phase = "before-database" //
	PhaseAfterDatabase  Phase = "after-database"  // locked and read
	PhaseBeforeSocket   Phase = "before-socket"   //
	PhaseAfterSocket    Phase = "after-socket"    // listening
	PhaseRequire        Phase = "require"         // before the wait for extensions_require
	PhaseConfig         Phase = "config"          // before the config plugin is activated
	PhaseLogger         Phase = "logger"          // before the logger plugin is activated
	PhaseReady          Phase = "ready"           // everything activated
	PhaseRegister       Phase = "register"        // an extension registers itself
	PhaseCall           Phase = "call"            // an extension calls core's registry
	PhaseQuery          Phase = "query"           // each query over the socket
	PhaseScheduled      Phase = "scheduled"       // each scheduled query, while it runs
	PhaseStop           Phase = "stop"            // asked to stop
	PhaseStopped        Phase = "stopped"         // everything released, about to exit
)

// Kind is what an Action does.
type Kind string

// The kinds of action.
const (
	Exit             Kind = "exit"              // exit at once with Code
	Kill             Kind = "kill"              // die by Signal (SIGKILL when 0); exit code 128+Signal in process
	Hang             Kind = "hang"              // answer nothing any more, not even pings
	HangCalls        Kind = "hang-calls"        // answer pings only
	Unhang           Kind = "unhang"            // undo both
	Delay            Kind = "delay"             // wait Delay, then go on
	NoSocket         Kind = "no-socket"         // never open the manager socket (before-socket)
	DeleteSocket     Kind = "delete-socket"     // remove the socket's file; listening goes on
	DropRegistration Kind = "drop-registration" // forget extension Text (all when empty) in silence
	ZeroUUID         Kind = "zero-uuid"         // give the next registration UUID 0
	CloseConnections Kind = "close-connections" // close every connection of the manager socket
	Reset            Kind = "reset"             // close the connection instead of answering (query, register, call)
	Rubbish          Kind = "rubbish"           // answer bytes that are no Thrift
	Truncate         Kind = "truncate"          // answer half, then close
	Huge             Kind = "huge"              // answer one cell of Bytes bytes (50 MB when 0)
	Refuse           Kind = "refuse"            // answer status 1 with message Text
	IgnoreTerm       Kind = "ignore-term"       // ignore SIGTERM and SIGINT from now on
	FloodStderr      Kind = "flood-stderr"      // write Bytes bytes of log lines to stderr
	GrowMemory       Kind = "grow-memory"       // allocate and touch Bytes bytes
	Say              Kind = "say"               // write Text as a line to stderr
	WatchdogMemory   Kind = "watchdog-memory"   // the watcher replaces the worker for its memory
	WatchdogCPU      Kind = "watchdog-cpu"      // the watcher replaces the worker for its CPU use
)

var phases = []Phase{
	PhaseStart, PhaseBeforePidfile, PhaseAfterPidfile, PhaseBeforeDatabase, PhaseAfterDatabase, PhaseBeforeSocket,
	PhaseAfterSocket, PhaseRequire, PhaseConfig, PhaseLogger, PhaseReady, PhaseRegister, PhaseCall, PhaseQuery,
	PhaseScheduled, PhaseStop, PhaseStopped,
}

var kinds = []Kind{
	Exit, Kill, Hang, HangCalls, Unhang, Delay, NoSocket, DeleteSocket, DropRegistration, ZeroUUID, CloseConnections,
	Reset, Rubbish, Truncate, Huge, Refuse, IgnoreTerm, FloodStderr, GrowMemory, Say, WatchdogMemory, WatchdogCPU,
}

// Action is one thing that a fake does.
type Action struct {
	// Do is the kind of action; its comment names the other fields that it uses.
	Do     Kind          `json:"do"`
	Code   int           `json:"code,omitempty"`
	Signal int           `json:"signal,omitempty"`
	Delay  time.Duration `json:"delay,omitempty"` // not scaled
	Bytes  int64         `json:"bytes,omitempty"`
	Text   string        `json:"text,omitempty"`
}

// Rule makes processes do an Action when they pass a Phase. All given limits
// must hold.
type Rule struct {
	// Phase is when.
	Phase Phase `json:"phase"`
	// Action is what.
	Action Action `json:"action"`

	// Instance limits the rule to processes that have an argument containing
	// this text, such as a part of the database path.
	Instance string `json:"instance,omitempty"`
	// Role limits the rule to one kind of process; empty is any.
	Role Role `json:"role,omitempty"`
	// Match limits query, scheduled, call and register to those whose SQL,
	// query name, registry item or extension name contains this text.
	Match string `json:"match,omitempty"`
	// Runs limits the rule to the first so many runs of an instance; 0 is all.
	Runs int `json:"runs,omitempty"`
	// Worker limits the rule to the n-th worker of a run, from 1; 0 is all.
	Worker int `json:"worker,omitempty"`
	// Times limits the rule to the first so many times in a process; 0 is all.
	Times int `json:"times,omitempty"`
	// Skip lets so many times pass before the rule acts in a process.
	Skip int `json:"skip,omitempty"`
	// Fraction limits the rule to this part (0 to 1) of the instances, chosen
	// by a hash of their database path; 0 is all.
	Fraction float64 `json:"fraction,omitempty"`
}

func (r Rule) validate() error {
	switch {
	case !slices.Contains(phases, r.Phase):
		return fmt.Errorf("phase %q is unknown: give one of the Phase constants", r.Phase)
	case !slices.Contains(kinds, r.Action.Do):
		return fmt.Errorf("action %q is unknown: give one of the Kind constants", r.Action.Do)
	case r.Fraction < 0 || r.Fraction > 1:
		return fmt.Errorf("fraction %v is not between 0 and 1", r.Fraction)
	case r.Runs < 0 || r.Worker < 0 || r.Times < 0 || r.Skip < 0:
		return fmt.Errorf("limits must not be negative")
	}
	return nil
}

// matches reports whether the rule concerns a process at all.
func (r Rule) matches(id fakeosqueryd.Identity) bool {
	switch {
	case r.Role != "" && r.Role != Role(id.Role):
		return false
	case r.Instance != "" && !containsArg(id.Args, r.Instance):
		return false
	case r.Runs > 0 && id.Run > r.Runs:
		return false
	case r.Worker > 0 && id.Worker != r.Worker:
		return false
	}
	return r.Fraction == 0 || chosen(id.Key(), r.Fraction)
}

func containsArg(args []string, text string) bool {
	for _, a := range args {
		if strings.Contains(a, text) {
			return true
		}
	}
	return false
}

// chosen picks the same instances each time, so that a failure can be run
// again.
func chosen(key string, fraction float64) bool {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return float64(h.Sum32()%10000) < fraction*10000
}

// String names the action for errors and logs.
func (a Action) String() string {
	switch a.Do {
	case Exit:
		return "exit " + strconv.Itoa(a.Code)
	case Kill:
		return "kill " + strconv.Itoa(a.Signal)
	case Delay:
		return "delay " + a.Delay.String()
	default:
		return string(a.Do)
	}
}
