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

// Phase is a point in the life of a process.
type Phase string

// The phases, in order. A watcher passes only start, those of the pidfile, and stop; its worker
// all but those of the pidfile.
const (
	PhaseStart          Phase = "start" // before anything
	PhaseBeforePidfile  Phase = "before-pidfile"
	PhaseAfterPidfile   Phase = "after-pidfile" // locked and written
	PhaseBeforeDatabase Phase = "before-database"
	PhaseAfterDatabase  Phase = "after-database" // locked and read
	PhaseBeforeSocket   Phase = "before-socket"
	PhaseAfterSocket    Phase = "after-socket" // listening
	PhaseRequire        Phase = "require"      // before extensions_require
	PhaseConfig         Phase = "config"       // before the config plugin starts
	PhaseLogger         Phase = "logger"       // before the logger plugin starts
	PhaseReady          Phase = "ready"
	PhaseRegister       Phase = "register"  // an extension registers itself
	PhaseCall           Phase = "call"      // an extension calls the registry
	PhaseQuery          Phase = "query"     // each query over the socket
	PhaseScheduled      Phase = "scheduled" // each scheduled query, while it runs
	PhaseStop           Phase = "stop"      // asked to stop
	PhaseStopped        Phase = "stopped"   // about to exit
)

// Kind is what an Action does.
type Kind string

// The kinds of action.
const (
	Exit             Kind = "exit"              // exit with Code
	Kill             Kind = "kill"              // die by Signal; default SIGKILL
	Hang             Kind = "hang"              // answer nothing
	HangCalls        Kind = "hang-calls"        // answer pings only
	Unhang           Kind = "unhang"            // undo both
	Delay            Kind = "delay"             // wait Delay, then go on
	NoSocket         Kind = "no-socket"         // open no socket (before-socket)
	DeleteSocket     Kind = "delete-socket"     // remove the socket's file only
	DropRegistration Kind = "drop-registration" // forget extension Text, or all
	ZeroUUID         Kind = "zero-uuid"         // the next registration gets UUID 0
	CloseConnections Kind = "close-connections" // close all connections
	Reset            Kind = "reset"             // close the connection unanswered (query, register, call)
	Rubbish          Kind = "rubbish"           // answer bytes that are not Thrift
	Truncate         Kind = "truncate"          // answer half, then close
	Huge             Kind = "huge"              // answer one cell of Bytes; default 50 MB
	Refuse           Kind = "refuse"            // answer status 1 with message Text
	IgnoreTerm       Kind = "ignore-term"       // ignore SIGTERM and SIGINT
	FloodStderr      Kind = "flood-stderr"      // write Bytes of log lines to stderr
	GrowMemory       Kind = "grow-memory"       // allocate Bytes
	Say              Kind = "say"               // write Text as a line to stderr
	WatchdogMemory   Kind = "watchdog-memory"   // replace the worker for its memory
	WatchdogCPU      Kind = "watchdog-cpu"      // replace the worker for its CPU use
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

// Action is what a process does. The comment of the [Kind] names the fields that it uses.
type Action struct {
	Do     Kind          `json:"do"`
	Code   int           `json:"code,omitempty"`
	Signal int           `json:"signal,omitempty"`
	Delay  time.Duration `json:"delay,omitempty"` // not scaled
	Bytes  int64         `json:"bytes,omitempty"`
	Text   string        `json:"text,omitempty"`
}

// Rule is an Action at a Phase, if all limits apply. A zero limit does not limit.
type Rule struct {
	Phase  Phase  `json:"phase"`
	Action Action `json:"action"`

	Instance string `json:"instance,omitempty"` // text in an argument of the process
	Role     Role   `json:"role,omitempty"`
	Match    string `json:"match,omitempty"`  // text in the SQL, query, registry item or extension
	Runs     int    `json:"runs,omitempty"`   // the first runs of an instance
	Worker   int    `json:"worker,omitempty"` // one worker of a run, from 1
	Times    int    `json:"times,omitempty"`  // the first times in a process
	Skip     int    `json:"skip,omitempty"`   // not the first times in a process
	// Fraction, 0 to 1, limits the rule to a part of the instances, the same in each run.
	Fraction float64 `json:"fraction,omitempty"`
}

func (r Rule) validate() error {
	switch {
	case !slices.Contains(phases, r.Phase):
		return fmt.Errorf("phase %q is unknown: use one of the Phase constants", r.Phase)
	case !slices.Contains(kinds, r.Action.Do):
		return fmt.Errorf("action %q is unknown: use one of the Kind constants", r.Action.Do)
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

// String describes the action.
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
