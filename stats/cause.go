package stats

// Cause is why a run ended. A new one needs its constant and its line in hints here, and its
// line in the policy table of package runtime; tests fail without.
type Cause string

// The causes. Every run ends with exactly one of them.
const (
	// CauseRequested is a run that was to stop, and stopped.
	CauseRequested Cause = "requested"
	// CauseExit is an exit of osqueryd by itself that nothing below explains.
	CauseExit Cause = "exit"
	// CauseSignal is an osqueryd ended by a signal that was not ours.
	CauseSignal Cause = "signal"
	// CauseStartTimeout is an osqueryd that was not ready in time.
	CauseStartTimeout Cause = "start timeout"
	// CauseUnhealthy is an osqueryd that we ended because its registration or
	// a health check failed and could not be restored.
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

// Hint returns what a person can do about the cause; empty for CauseRequested.
func (c Cause) Hint() string {
	for _, h := range hints {
		if h.cause == c {
			return h.text
		}
	}
	return ""
}

// Causes returns every cause, in the order of the constants.
func Causes() []Cause {
	all := make([]Cause, len(hints))
	for i, h := range hints {
		all[i] = h.cause
	}
	return all
}

// hints has a line for each cause.
var hints = []struct {
	cause Cause
	text  string
}{
	{CauseRequested, ""},
	{CauseExit, "osqueryd ended by itself; its last lines may show why"},
	{CauseSignal, "another program ended osqueryd, or the kernel did for want of memory"},
	{CauseStartTimeout, "look at osqueryd's last lines, or allow more time by Timeouts.Start"},
	{CauseUnhealthy, "osqueryd ran but did not answer; look for a query that takes long, or allow more by WithHealth"},
	{CauseOutOfMemory, "look for the query that ran last, or raise the limit by WithWatchdog"},
	{CauseDatabaseLocked, "another osqueryd holds the instance's database; end it, or use a directory of the instance's own"},
	{CauseDatabaseCorrupt, "osqueryd renames it to .backup and starts a fresh one; look for a full or failing disk"},
	{CausePidfileBusy, "another osqueryd holds the instance's pidfile; end it, or use a directory of the instance's own"},
	{CausePluginMissing, "osqueryd did not find our extension in time; allow more by Timeouts.Extensions"},
	{CauseLoggerFailed, "our extension refused a result of osqueryd, which ended itself"},
	{CauseFlagRefused, "correct the flag that osqueryd names, set by WithFlag"},
	{CauseBinaryMissing, "install osquery, or correct the path of WithBinary"},
	{CauseBinaryUnusable, "install an osqueryd for this system and user; osqueryd's lines or the error show what is wrong"},
	{CauseBinaryBusy, "close the file before osqueryd is started, and replace binaries by rename"},
	{CauseDirectory, "correct the owner or mode, or end the other host that uses the directory"},
	{CauseResources, "free descriptors, processes, memory or disk, or raise the limits of this host; it is tried again"},
	{CauseNoSocket, "osqueryd runs without its extension socket; check the directory of the socket"},
	{CauseCrashLoop, "the worker died too often; look at the queries that ran, and at osqueryd's last lines"},
	{CauseLeftover, "an osqueryd that an earlier host left behind does not end; end it by hand"},
	{CausePanic, "correct the host's code that the error names; the event of the panic has its stack"},
	{CauseUnknown, "the error names what failed; osqueryd's last lines may tell more"},
}
