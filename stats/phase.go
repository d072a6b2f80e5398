package stats

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

// ResumeReason says why a parked instance is started again.
type ResumeReason string

// The reasons.
const (
	// ResumedByHost is a Resume or a Restart.
	ResumedByHost ResumeReason = "requested"
	// ResumedByTime is the end of InstanceParked.For.
	ResumedByTime ResumeReason = "time"
	// ResumedByBinary is a binary that was exchanged or changed.
	ResumedByBinary ResumeReason = "binary changed"
	// ResumedByRoom is a file system that was full and has room again.
	ResumedByRoom ResumeReason = "disk has room"
)
