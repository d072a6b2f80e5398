package stats

// Cause is why a run ended. Every run ends with exactly one; Hint explains it.
//
// A new one needs a constant and a line in hints here, and a line in the policies of
// package runtime: tests fail without.
type Cause string

// The causes.
const (
	CauseRequested       Cause = "requested" // it was to stop, and stopped
	CauseExit            Cause = "exit"      // osqueryd exited by itself, for no reason below
	CauseSignal          Cause = "signal"    // of another program or the kernel
	CauseStartTimeout    Cause = "start timeout"
	CauseUnhealthy       Cause = "unhealthy"     // a registration or health check failed for good
	CauseOutOfMemory     Cause = "out of memory" // ended by the kernel or by osqueryd's watchdog
	CauseDatabaseLocked  Cause = "database locked"
	CauseDatabaseCorrupt Cause = "database corrupt"
	CausePidfileBusy     Cause = "pidfile busy"
	CausePluginMissing   Cause = "plugin missing"     // when osqueryd activated it (exit code 78)
	CauseLoggerFailed    Cause = "logger failed"      // our logger refused a result (exit code 78)
	CauseFlagRefused     Cause = "flag refused"       // or a value of one
	CauseBinaryMissing   Cause = "binary missing"     // no such file
	CauseBinaryUnusable  Cause = "binary unusable"    // permission, architecture, writable by all, too old
	CauseBinaryBusy      Cause = "binary busy"        // being written, as in an upgrade
	CauseDirectory       Cause = "directory unusable" // permission, damage, or another host process
	CauseResources       Cause = "out of resources"   // descriptors, processes, memory or disk
	CauseNoSocket        Cause = "no extension socket"
	CauseCrashLoop       Cause = "worker crash loop" // the watcher gave up; its exit code can be 0
	CauseLeftover        Cause = "leftover process"  // of an earlier host, and it does not end
	CausePanic           Cause = "panic"             // in code of the host
	CauseUnknown         Cause = "unknown"
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
