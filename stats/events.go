package stats

import "time"

// InstanceAdded reports that an instance joined the set.
type InstanceAdded struct{ Head }

func (InstanceAdded) Kind() string                   { return "instance added" }
func (e InstanceAdded) MarshalJSON() ([]byte, error) { return marshal(e) }

// InstanceUpdated reports that an instance got new options.
type InstanceUpdated struct{ Head }

func (InstanceUpdated) Kind() string                   { return "instance updated" }
func (e InstanceUpdated) MarshalJSON() ([]byte, error) { return marshal(e) }

// InstanceRemoved reports that an instance left the set and nothing of it runs.
type InstanceRemoved struct{ Head }

func (InstanceRemoved) Kind() string                   { return "instance removed" }
func (e InstanceRemoved) MarshalJSON() ([]byte, error) { return marshal(e) }

// InstanceParked reports that an instance stays down, because starting it again soon is of no use.
type InstanceParked struct {
	Head
	Cause Cause
	// For is how long at most; 0 is until the host resumes it.
	For time.Duration
	// Failures within Window, this one included; 1 when the cause alone was enough.
	Failures int
	Window   time.Duration
	Err      error
}

func (InstanceParked) Kind() string                   { return "instance parked" }
func (e InstanceParked) MarshalJSON() ([]byte, error) { return marshal(e) }

// InstanceResumed reports that a parked instance is started again.
type InstanceResumed struct {
	Head
	Reason ResumeReason
}

func (InstanceResumed) Kind() string                   { return "instance resumed" }
func (e InstanceResumed) MarshalJSON() ([]byte, error) { return marshal(e) }

// ResumeReason is why a parked instance is started again.
type ResumeReason string

// The reasons.
const (
	ResumedByHost   ResumeReason = "requested"      // Resume, Restart or Update
	ResumedByTime   ResumeReason = "time"           // the end of InstanceParked.For
	ResumedByBinary ResumeReason = "binary changed" // replaced or changed
	ResumedByRoom   ResumeReason = "disk has room"  // was full
)

// RestartScheduled reports that the next run starts after Delay.
type RestartScheduled struct {
	Head
	Cause Cause
	Delay time.Duration
	// Attempt counts failures in a row, from 1.
	Attempt int
}

func (RestartScheduled) Kind() string                   { return "restart scheduled" }
func (e RestartScheduled) MarshalJSON() ([]byte, error) { return marshal(e) }

// RunStarting reports that a run began.
type RunStarting struct {
	Head
	Binary  string
	Version string
}

func (RunStarting) Kind() string                   { return "run starting" }
func (e RunStarting) MarshalJSON() ([]byte, error) { return marshal(e) }

// ProcessStarted reports that osqueryd was started.
type ProcessStarted struct {
	Head
	PID int
}

func (ProcessStarted) Kind() string                   { return "process started" }
func (e ProcessStarted) MarshalJSON() ([]byte, error) { return marshal(e) }

// ExtensionRegistered reports that our extension is in osqueryd's registry.
type ExtensionRegistered struct {
	Head
	UUID    int64 // of the registration
	Plugins int   // how many
	Again   bool  // not the first of the run
}

func (ExtensionRegistered) Kind() string                   { return "extension registered" }
func (e ExtensionRegistered) MarshalJSON() ([]byte, error) { return marshal(e) }

// RunReady reports that an instance is registered, verified and answering.
type RunReady struct {
	Head
	// PID is the process we started: the watcher, or the only one there is.
	PID int
	// Elapsed is the time from the start of the run.
	Elapsed time.Duration
	Version string
	// InstanceID is osquery's id of its database.
	InstanceID string
}

func (RunReady) Kind() string                   { return "run ready" }
func (e RunReady) MarshalJSON() ([]byte, error) { return marshal(e) }

// WorkerReplaced reports that osqueryd replaced its worker and that our extension
// is registered with the new one.
type WorkerReplaced struct {
	Head
	// Reason is what osqueryd printed about it; may be empty.
	Reason string
	// Elapsed is the time from the loss of the old worker.
	Elapsed time.Duration
}

func (WorkerReplaced) Kind() string                   { return "worker replaced" }
func (e WorkerReplaced) MarshalJSON() ([]byte, error) { return marshal(e) }

// WorkerLost reports that osqueryd's worker, or its connection to us, went away.
type WorkerLost struct{ Head }

func (WorkerLost) Kind() string                   { return "worker lost" }
func (e WorkerLost) MarshalJSON() ([]byte, error) { return marshal(e) }

// WatchdogKilled reports that osqueryd's watchdog stopped its worker.
type WatchdogKilled struct {
	Head
	// Resource is "memory", "cpu" or "other".
	Resource string
	// Used and Limit are bytes of memory or milliseconds of CPU; 0 is unknown.
	Used, Limit uint64
	Message     string
}

func (WatchdogKilled) Kind() string                   { return "watchdog killed" }
func (e WatchdogKilled) MarshalJSON() ([]byte, error) { return marshal(e) }

// RegistrationLost reports that osqueryd no longer lists our extension.
type RegistrationLost struct {
	Head
	Err error
}

func (RegistrationLost) Kind() string                   { return "registration lost" }
func (e RegistrationLost) MarshalJSON() ([]byte, error) { return marshal(e) }

// RegistrationRestored reports that our extension was registered again in place.
type RegistrationRestored struct {
	Head
	Elapsed time.Duration
}

func (RegistrationRestored) Kind() string                   { return "registration restored" }
func (e RegistrationRestored) MarshalJSON() ([]byte, error) { return marshal(e) }

// TableParked reports that a table of the host was left out because osqueryd has one of that name.
type TableParked struct {
	Head
	Table string
	Err   error
}

func (TableParked) Kind() string                   { return "table parked" }
func (e TableParked) MarshalJSON() ([]byte, error) { return marshal(e) }

// HealthFailed reports that a health check failed.
type HealthFailed struct {
	Head
	Err error
	// InARow counts failures since the last success.
	InARow int
}

func (HealthFailed) Kind() string                   { return "health failed" }
func (e HealthFailed) MarshalJSON() ([]byte, error) { return marshal(e) }

// HealthRecovered reports that a health check passed again.
type HealthRecovered struct{ Head }

func (HealthRecovered) Kind() string                   { return "health recovered" }
func (e HealthRecovered) MarshalJSON() ([]byte, error) { return marshal(e) }

// RunStopping reports that osqueryd is being ended, on request or because the run
// cannot go on. There is none when osqueryd ended by itself.
type RunStopping struct{ Head }

func (RunStopping) Kind() string                   { return "run stopping" }
func (e RunStopping) MarshalJSON() ([]byte, error) { return marshal(e) }

// RunEnded reports that a run is over and nothing of it is left.
type RunEnded struct {
	Head
	Phase Phase
	Cause Cause
	PID   int
	// Code is the exit code; -1 is none.
	Code   int
	Signal string        // that ended osqueryd, such as "SIGKILL"
	Uptime time.Duration // 0 when no process was started
	Err    error
	Stderr []string // the end of what osqueryd printed
	Hint   string
}

func (RunEnded) Kind() string                   { return "run ended" }
func (e RunEnded) MarshalJSON() ([]byte, error) { return marshal(e) }

// ConfigServed reports that osqueryd was served another config than before.
type ConfigServed struct {
	Head
	Bytes   int
	Sources int
	// Stale: the source failed, and this is the last good config.
	Stale bool
}

func (ConfigServed) Kind() string                   { return "config served" }
func (e ConfigServed) MarshalJSON() ([]byte, error) { return marshal(e) }

// ConfigRefused reports that a config did not reach osqueryd; the last good one stays.
type ConfigRefused struct {
	Head
	Source string
	Err    error
}

func (ConfigRefused) Kind() string                   { return "config refused" }
func (e ConfigRefused) MarshalJSON() ([]byte, error) { return marshal(e) }

// ConfigSetAside reports that a config is not served any more until its content changes,
// because osqueryd died with it during its probation.
type ConfigSetAside struct {
	Head
	Hash    string // SHA-256 of the config
	Sources int
	Deaths  int // of osqueryd in the probation
}

func (ConfigSetAside) Kind() string                   { return "config set aside" }
func (e ConfigSetAside) MarshalJSON() ([]byte, error) { return marshal(e) }

// OptionStripped reports that an option was removed from a config because a config
// must not set it; once for each such config.
type OptionStripped struct {
	Head
	Source, Option string
	// Reason continues the option's name, as in "is set by the SDK".
	Reason string
}

func (OptionStripped) Kind() string                   { return "option stripped" }
func (e OptionStripped) MarshalJSON() ([]byte, error) { return marshal(e) }

// ConfigPartIgnored reports that osqueryd ignores or misreads a part of a config that it
// was served; once for each such config, and for at most 20 parts of a source.
type ConfigPartIgnored struct {
	Head
	// Path of the part, such as "schedule.logins.interval".
	Source, Path string
	Reason       string
}

func (ConfigPartIgnored) Kind() string                   { return "config part ignored" }
func (e ConfigPartIgnored) MarshalJSON() ([]byte, error) { return marshal(e) }

// ConfigPushed reports that osqueryd accepted a config by its update call.
type ConfigPushed struct{ Head }

func (ConfigPushed) Kind() string                   { return "config pushed" }
func (e ConfigPushed) MarshalJSON() ([]byte, error) { return marshal(e) }

// LogsDelivered reports that the transport accepted a batch.
type LogsDelivered struct {
	Head
	Batch string
	Queue string
	Lines int
	Bytes int
}

func (LogsDelivered) Kind() string                   { return "logs delivered" }
func (e LogsDelivered) MarshalJSON() ([]byte, error) { return marshal(e) }

// LogsDropped reports that log lines are lost.
type LogsDropped struct {
	Head
	Queue  string
	Lines  uint64
	Bytes  uint64
	Reason string
}

func (LogsDropped) Kind() string                   { return "logs dropped" }
func (e LogsDropped) MarshalJSON() ([]byte, error) { return marshal(e) }

// QueueDamaged reports that the files of a queue were damaged when it was opened. What can
// be read is kept. Lines known to be lost are in a LogsDropped as well.
type QueueDamaged struct {
	Head
	Queue   string
	Bytes   int64  // cut off or skipped
	Missing uint64 // lines known to be gone
	// CursorLost: delivered lines may be delivered again, under other ids.
	CursorLost bool
}

func (QueueDamaged) Kind() string                   { return "queue damaged" }
func (e QueueDamaged) MarshalJSON() ([]byte, error) { return marshal(e) }

// QueueLeft reports that lines in a queue of an instance's former directory could not be
// moved to the new one. They stay until an instance uses that directory again.
type QueueLeft struct {
	Head
	Queue string // empty for the directory as a whole
	Dir   string // the former directory
	Err   error
}

func (QueueLeft) Kind() string                   { return "queue left" }
func (e QueueLeft) MarshalJSON() ([]byte, error) { return marshal(e) }

// TransportFailed reports that a call of the host's transport failed.
type TransportFailed struct {
	Head
	// Call is "config", "logs", "queries", "results" or "enroll".
	Call string
	Err  error
	// Retry is the time to the next try; 0 is when osqueryd fetches again.
	Retry time.Duration
}

func (TransportFailed) Kind() string                   { return "transport failed" }
func (e TransportFailed) MarshalJSON() ([]byte, error) { return marshal(e) }

// Enrolled reports that the instance has a node key, new or renewed.
type Enrolled struct {
	Head
	Again bool
}

func (Enrolled) Kind() string                   { return "enrolled" }
func (e Enrolled) MarshalJSON() ([]byte, error) { return marshal(e) }

// QueryDenylisted reports that osqueryd refuses to run a query.
type QueryDenylisted struct {
	Head
	Query       string
	Distributed bool
}

func (QueryDenylisted) Kind() string                   { return "query denylisted" }
func (e QueryDenylisted) MarshalJSON() ([]byte, error) { return marshal(e) }

// DatabaseReplaced reports that osqueryd found its database corrupt and began a new one: its
// denylist is empty, differential queries return all rows once more, and RunReady has
// another InstanceID. Host tables, queues and node key are not affected.
type DatabaseReplaced struct {
	Head
	Backup string // path of the old one; may be empty
}

func (DatabaseReplaced) Kind() string                   { return "database replaced" }
func (e DatabaseReplaced) MarshalJSON() ([]byte, error) { return marshal(e) }

// DiscoveryFailed reports that a discovery query failed, so that a distributed query was not run.
type DiscoveryFailed struct {
	Head
	Query string
	Err   error
}

func (DiscoveryFailed) Kind() string                   { return "discovery failed" }
func (e DiscoveryFailed) MarshalJSON() ([]byte, error) { return marshal(e) }

// FlagIneffective reports that osqueryd runs with another value than we passed.
type FlagIneffective struct {
	Head
	Flag, Want, Got string
}

func (FlagIneffective) Kind() string                   { return "flag ineffective" }
func (e FlagIneffective) MarshalJSON() ([]byte, error) { return marshal(e) }

// RateAlarm reports that something happened more often than runtime.WithRateAlarm allows.
type RateAlarm struct {
	Head
	// What is "restarts" or "watchdog kills".
	What string
	// Count within Window; 1000 may be more.
	Count  int
	Window time.Duration
}

func (RateAlarm) Kind() string                   { return "rate alarm" }
func (e RateAlarm) MarshalJSON() ([]byte, error) { return marshal(e) }

// LeftoverCleaned reports that processes of an earlier host were ended.
type LeftoverCleaned struct {
	Head
	PIDs    []int
	Elapsed time.Duration
}

func (LeftoverCleaned) Kind() string                   { return "leftover cleaned" }
func (e LeftoverCleaned) MarshalJSON() ([]byte, error) { return marshal(e) }

// Suspended reports that the machine slept; health checks start over.
type Suspended struct {
	Head
	For time.Duration
}

func (Suspended) Kind() string                   { return "suspended" }
func (e Suspended) MarshalJSON() ([]byte, error) { return marshal(e) }

// PanicCaught reports that code of the host panicked and was recovered.
type PanicCaught struct {
	Head
	// Where is "table NAME", "transport CALL", "observer", …
	Where string
	Value string
	Stack string
}

func (PanicCaught) Kind() string                   { return "panic caught" }
func (e PanicCaught) MarshalJSON() ([]byte, error) { return marshal(e) }
