package stats

// Cause says why a run ended.
type Cause string

// The causes. Every run ends with exactly one of them.
const (
	// CauseRequested is a run that was asked to stop, and stopped.
	CauseRequested Cause = "requested"
	// CauseExit is an exit of osqueryd by itself that nothing below explains;
	// the exit code says the rest.
	CauseExit Cause = "exit"
	// CauseSignal is an osqueryd ended by a signal that was not ours.
	CauseSignal Cause = "signal"
	// CauseStartTimeout is an osqueryd that was not ready in time.
	CauseStartTimeout Cause = "start timeout"
	// CauseUnhealthy is an osqueryd that we ended because its registration or
	// a health check failed and could not be mended.
	CauseUnhealthy Cause = "unhealthy"
	// CauseOutOfMemory is an osqueryd ended for its memory, by the kernel or
	// by its own watchdog.
	CauseOutOfMemory Cause = "out of memory"
	// CauseDatabaseLocked is a database that another process holds.
	CauseDatabaseLocked Cause = "database locked"
	// CauseDatabaseCorrupt is a database that osqueryd could not read.
	CauseDatabaseCorrupt Cause = "database corrupt"
	// CausePidfileBusy is a pidfile that another osqueryd holds.
	CausePidfileBusy Cause = "pidfile busy"
	// CausePluginMissing is a config, logger or distributed plugin that was
	// not there when osqueryd wanted to activate it (exit code 78).
	CausePluginMissing Cause = "plugin missing"
	// CauseLoggerFailed is a result that a logger plugin refused (exit code 78).
	CauseLoggerFailed Cause = "logger failed"
	// CauseFlagRefused is a flag, or a value of one, that osqueryd refused.
	CauseFlagRefused Cause = "flag refused"
	// CauseBinaryMissing is a binary that is not there.
	CauseBinaryMissing Cause = "binary missing"
	// CauseBinaryUnusable is a binary that cannot or must not be run: no
	// permission, another architecture, writable by everyone, too old.
	CauseBinaryUnusable Cause = "binary unusable"
	// CauseBinaryBusy is a binary that somebody writes to, as in an upgrade.
	CauseBinaryBusy Cause = "binary busy"
	// CauseDirectory is an instance directory that cannot be used: no
	// permission, damaged, or held by another host process.
	CauseDirectory Cause = "directory unusable"
	// CauseResources is a want of descriptors, processes, memory or disk, on the
	// machine or within a limit. It passes, or somebody makes room.
	CauseResources Cause = "out of resources"
	// CauseNoSocket is an osqueryd that runs without its extension socket.
	CauseNoSocket Cause = "no extension socket"
	// CauseCrashLoop is a watcher that gave up because its worker died too
	// often. Its exit code can be 0.
	CauseCrashLoop Cause = "worker crash loop"
	// CauseLeftover is an osqueryd of an earlier host that would not go away.
	CauseLeftover Cause = "leftover process"
	// CausePanic is a panic in code of the host that was called in a run.
	CausePanic Cause = "panic"
	// CauseUnknown is an end that nothing explains.
	CauseUnknown Cause = "unknown"
)
