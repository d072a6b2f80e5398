package stats

import (
	"fmt"
	"io"
	"iter"
	"reflect"
	"text/tabwriter"
	"time"
)

// Snapshot is what is known of one instance at one moment. It is a copy: the
// receiver may keep and change it.
type Snapshot struct {
	Instance string `json:"instance"`
	State    State  `json:"state"`
	// Since is when it entered State; zero before the first event.
	Since time.Time `json:"since,omitzero"`

	// Run is the current run, or nil when there is none.
	Run *Run `json:"run,omitempty"`
	// History holds the runs that ended, newest first, as many as instance.WithHistory sets.
	History []Run `json:"history,omitempty"`
	// LastError is the text of the newest failure of a run, a registration or a
	// health check. It stays after a recovery, and is empty after a requested stop.
	LastError string `json:"last_error,omitempty"`
	// NextStart is when a backoff or the park ends at the latest; zero in other states, and
	// when the park has no end.
	NextStart time.Time `json:"next_start,omitzero"`

	// Queues are what waits to be delivered, one for each queue on disk.
	Queues []QueueState `json:"queues,omitempty"`
	// Calls are how the server answers "enroll", "config" and "queries".
	Calls []CallState `json:"calls,omitempty"`
	// Denylisted names the scheduled queries that osqueryd refuses to run, as far as the
	// last look at its schedule showed.
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
	Failures              uint64 `json:"failures"` // runs that ended unasked
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

	Queries       uint64 `json:"queries"`        // asked by the host, answered or not
	QueriesFailed uint64 `json:"queries_failed"` // of those, failed or abandoned
	Distributed   uint64 `json:"distributed"`    // distributed results written

	LinesIn      uint64 `json:"lines_in"` // log lines taken from osqueryd
	BytesIn      uint64 `json:"bytes_in"`
	LinesOut     uint64 `json:"lines_out"` // log lines taken by the transport
	BytesOut     uint64 `json:"bytes_out"`
	LinesDropped uint64 `json:"lines_dropped"`
	BytesDropped uint64 `json:"bytes_dropped"`
}

// All yields every total by its JSON name ("lines_in"), in the order of the fields, for
// hosts that export them as metrics. A total never falls.
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
	// Bytes is the size on disk when lines of before the start are among them.
	Lines uint64 `json:"lines"`
	Bytes int64  `json:"bytes"`
	// Age is how long the oldest of them has been waiting, within some seconds, and since
	// the start of the process at most.
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

// Phase is the part of a run that an event or an error belongs to.
type Phase string

// The phases of a run, in the order in which a run passes through them.
const (
	// PhasePrepare makes the directory, takes the lease, clears what an
	// earlier run left behind and works out the flags.
	PhasePrepare Phase = "prepare"
	// PhaseSpawn starts the process.
	PhaseSpawn Phase = "spawn"
	// PhaseConnect waits for osqueryd's extension socket.
	PhaseConnect Phase = "connect"
	// PhaseRegister registers the extension and checks that it took.
	PhaseRegister Phase = "register"
	// PhaseServe is everything from ready to the request to stop.
	PhaseServe Phase = "serve"
	// PhaseStop is from the decision to end the run until nothing is left.
	PhaseStop Phase = "stop"
)

// State is where an instance stands, as its host would describe it.
type State string

// The states of an instance.
const (
	// StateIdle is an instance that was added and not started yet.
	StateIdle State = "idle"
	// StateStarting covers the phases before ready.
	StateStarting State = "starting"
	// StateReady is registered, verified and answering.
	StateReady State = "ready"
	// StateUnhealthy runs, but its registration or a health check is failing
	// and is being mended.
	StateUnhealthy State = "unhealthy"
	// StateStopping is being ended, asked or not, and not gone yet.
	StateStopping State = "stopping"
	// StateBackoff waits to be started again.
	StateBackoff State = "backoff"
	// StateParked failed too often, or in a way that starting again cannot
	// help; it stays down for a while, until what stood in its way has changed, or
	// until it is resumed, restarted or updated, or the Runner runs anew.
	StateParked State = "parked"
	// StateStopped is down: it ended because it was asked to, or a run failed
	// and what follows is not decided yet; Snapshot.LastError tells them apart.
	StateStopped State = "stopped"
)

// WriteTable writes snapshots as a table for people: a heading and one line per instance,
// in the order given. now is the time up to which uptimes count.
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
