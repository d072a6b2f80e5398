package stats

import (
	"fmt"
	"io"
	"iter"
	"reflect"
	"text/tabwriter"
	"time"
)

// Snapshot is the state of one instance at one moment. It is the caller's copy.
type Snapshot struct {
	Instance string `json:"instance"`
	State    State  `json:"state"`
	// Since is when it entered State; zero before the first event.
	Since time.Time `json:"since,omitzero"`

	// Run is the current run, or nil when there is none.
	Run *Run `json:"run,omitempty"`
	// History holds the runs that ended, newest first, as many as instance.Diagnostics.History sets.
	History []Run `json:"history,omitempty"`
	// LastError is the newest failure of a run, a registration or a health check. It
	// stays after a recovery, and is empty after a requested stop.
	LastError string `json:"last_error,omitempty"`
	// NextStart is when a backoff or a limited park ends at the latest; zero otherwise.
	NextStart time.Time `json:"next_start,omitzero"`

	// Queues are what waits to be delivered, one for each queue on disk.
	Queues []QueueState `json:"queues,omitempty"`
	// Calls are how the server answers "enroll", "config" and "queries".
	Calls []CallState `json:"calls,omitempty"`
	// Denylisted are the scheduled queries that osqueryd refused to run at the last look.
	Denylisted []string `json:"denylisted,omitempty"`

	Totals Totals `json:"totals"`
}

// Run is one lifetime of an osqueryd.
type Run struct {
	ID      string    `json:"id"`
	PID     int       `json:"pid,omitempty"`
	Started time.Time `json:"started"`
	// Ready is when it first was ready; zero when it never was.
	Ready time.Time `json:"ready,omitzero"`
	// Ended is when nothing of it was left; zero while it lives.
	Ended time.Time `json:"ended,omitzero"`
	// Uptime is from spawn to exit, set when the run has ended.
	Uptime time.Duration `json:"uptime_ns,omitempty"`

	Phase  Phase  `json:"phase"`
	Cause  Cause  `json:"cause,omitempty"`
	Code   int    `json:"code,omitempty"`
	Signal string `json:"signal,omitempty"`
	Error  string `json:"error,omitempty"`

	// Version is osqueryd's, InstanceID osquery's own id of its database.
	Version    string `json:"version,omitempty"`
	InstanceID string `json:"instance_id,omitempty"`

	// WorkersReplaced and Registrations count within this run.
	WorkersReplaced int `json:"workers_replaced,omitempty"`
	Registrations   int `json:"registrations,omitempty"`
}

// Totals count since the instance was made; an Update goes on with them.
type Totals struct {
	Runs                  uint64 `json:"runs"`
	Restarts              uint64 `json:"restarts"` // runs after the first
	Failures              uint64 `json:"failures"` // runs that failed
	WorkersReplaced       uint64 `json:"workers_replaced"`
	RegistrationsRestored uint64 `json:"registrations_restored"`
	HealthFailures        uint64 `json:"health_failures"`
	WatchdogKills         uint64 `json:"watchdog_kills"`
	Denylisted            uint64 `json:"queries_denylisted"`
	Databases             uint64 `json:"databases_replaced"`
	Panics                uint64 `json:"panics"`
	TransportErrors       uint64 `json:"transport_errors"`
	ConfigsServed         uint64 `json:"configs_served"`
	ConfigsRefused        uint64 `json:"configs_refused"`
	ConfigsSetAside       uint64 `json:"configs_set_aside"`

	Queries       uint64 `json:"queries"`        // of the host, answered or not
	QueriesFailed uint64 `json:"queries_failed"` // of those, failed or abandoned
	Distributed   uint64 `json:"distributed"`    // distributed results written

	LinesIn      uint64 `json:"lines_in"` // log lines from osqueryd
	BytesIn      uint64 `json:"bytes_in"`
	LinesOut     uint64 `json:"lines_out"` // log lines that the transport accepted
	BytesOut     uint64 `json:"bytes_out"`
	LinesDropped uint64 `json:"lines_dropped"`
	BytesDropped uint64 `json:"bytes_dropped"`
}

// All yields every total by its JSON name, such as "lines_in". A total never falls.
func (t Totals) All() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		v := reflect.ValueOf(t)
		for i := range v.NumField() {
			if !yield(v.Type().Field(i).Tag.Get("json"), v.Field(i).Uint()) {
				return
			}
		}
	}
}

// QueueState is what is known of one queue.
type QueueState struct {
	// Queue is "results", "snapshots", "status" or "distributed".
	Queue string `json:"queue"`
	// Lines and Bytes wait to be delivered; for "distributed" they are writes of osqueryd.
	// Bytes is the size on disk when lines of an earlier start are among them.
	Lines uint64 `json:"lines"`
	Bytes int64  `json:"bytes"`
	// Age of the oldest of them, within some seconds, since the start of the process at most.
	Age time.Duration `json:"age_ns,omitempty"`
	Delivery
}

// CallState is how calls of one kind went.
type CallState struct {
	Call string `json:"call"`
	Delivery
}

// Delivery is how calls of the host's transport went, since the start of the process.
type Delivery struct {
	// LastSuccess and LastFailure are zero when there was none.
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastFailure time.Time `json:"last_failure,omitzero"`
	// LastError is the text of the last failure. It stays after a success.
	LastError string `json:"last_error,omitempty"`
	// Tries counts the failures since the last success.
	Tries int `json:"tries,omitempty"`
}

// Phase is a part of a run.
type Phase string

// The phases, in order.
const (
	PhasePrepare  Phase = "prepare"  // directory, lease, leftovers of an earlier run, flags
	PhaseSpawn    Phase = "spawn"    // starts the process
	PhaseConnect  Phase = "connect"  // waits for osqueryd's extension socket
	PhaseRegister Phase = "register" // registers the extension and verifies it
	PhaseServe    Phase = "serve"    // from ready to the decision to end the run
	PhaseStop     Phase = "stop"     // until nothing of the run is left
)

// State is the state of an instance.
type State string

// The states.
const (
	StateIdle      State = "idle"      // added, not started yet
	StateStarting  State = "starting"  // a run that is not ready yet
	StateReady     State = "ready"     // registered, verified and answering
	StateUnhealthy State = "unhealthy" // runs, and a registration or health check fails
	StateStopping  State = "stopping"  // a run is being ended
	StateBackoff   State = "backoff"   // waits for its next start
	StateParked    State = "parked"    // stays down for a while, or until the host resumes it
	StateStopped   State = "stopped"   // down; LastError is empty after a requested stop
)

// WriteTable writes snapshots as a table for people: a heading and one line per instance, in
// the order of the slice. Uptimes count up to now.
func WriteTable(w io.Writer, snapshots []Snapshot, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INSTANCE\tSTATE\tPID\tUP\tRESTARTS\tQUERIES\tLINES IN\tLINES OUT\tLAST END") //nolint:errcheck // Flush reports it
	for _, s := range snapshots {
		pid, up, end := "-", "-", "-"
		if s.Run != nil && s.Run.PID != 0 {
			pid, up = fmt.Sprint(s.Run.PID), now.Sub(s.Run.Started).Truncate(time.Second).String()
		}
		if len(s.History) > 0 {
			end = string(s.History[0].Cause)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Instance, s.State, pid, up, //nolint:errcheck // Flush reports it
			s.Totals.Restarts, s.Totals.Queries, s.Totals.LinesIn, s.Totals.LinesOut, end)
	}
	return t.Flush()
}
