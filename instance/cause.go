package instance

import (
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"

	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// causeRule ties a line that osqueryd prints to the cause of its end.
type causeRule struct {
	cause stats.Cause
	// file of osqueryd's source that writes the line; "" is a line that is not glog's.
	file string
	// level is the least that the line has.
	level slog.Level
	// all must be in the message.
	all []string
}

// shutdownFile is where osqueryd logs the message that it ends with.
const shutdownFile = "shutdown.cpp"

// causeRules is the one table of osqueryd's texts. The first rule that a line
// matches wins, rules before lines, so what is more telling comes first. It is
// consulted only for lines in which nobody else's text can be; see words.
func causeRules() []causeRule {
	const info, warn, fail = slog.LevelInfo, slog.LevelWarn, slog.LevelError
	return []causeRule{
		{stats.CauseFlagRefused, "", info, []string{"ERROR: unknown command line flag"}},
		{stats.CauseFlagRefused, "", info, []string{"ERROR: illegal value"}},
		{stats.CauseFlagRefused, "", info, []string{"ERROR: flag", "missing its argument"}},
		{stats.CauseFlagRefused, "", info, []string{"ERROR: failed validation of new value"}},
		{stats.CauseBinaryUnusable, "", info, []string{"error while loading shared libraries"}},
		{stats.CauseBinaryUnusable, shutdownFile, fail, []string{"osqueryd has unsafe permissions: "}},
		{stats.CausePidfileBusy, "init.cpp", fail, []string{" Pidfile check failed: "}},
		{stats.CauseResources, shutdownFile, fail, []string{"No space left on device"}},
		{stats.CauseResources, shutdownFile, fail, []string{"Too many open files"}},
		{stats.CauseResources, "rocksdb.cpp", info, []string{"Rocksdb open failed (", "No space left on device"}},
		{stats.CauseResources, "rocksdb.cpp", info, []string{"Rocksdb open failed (", "Too many open files"}},
		{stats.CauseResources, "watcher.cpp", fail, []string{"osqueryd could not create a worker process"}},
		{stats.CauseDatabaseLocked, shutdownFile, fail, []string{"IO error: ", "lock file"}},
		{stats.CauseDatabaseLocked, "rocksdb.cpp", info, []string{"Rocksdb open failed (5:", "lock file"}},
		{stats.CauseDatabaseCorrupt, "rocksdb.cpp", info, []string{"Rocksdb open failed (2:"}},
		{stats.CauseDatabaseCorrupt, "rocksdb.cpp", warn, []string{corruptText}},
		{stats.CausePluginMissing, shutdownFile, fail, []string{"Cannot activate " + extensionName + " ", " plugin: "}},
		{stats.CauseCrashLoop, shutdownFile, fail, []string{"Too many worker restarts"}},
		{stats.CauseOutOfMemory, "", info, []string{"terminate called after throwing an instance of 'std::bad_alloc'"}},
		{stats.CauseNoSocket, "init.cpp", info, []string{"Extension socket directory missing"}},
		{stats.CauseNoSocket, "interface.cpp", warn, []string{"Extensions disabled: cannot start extension manager"}},
	}
}

func (rule causeRule) matches(l glog.Line) bool {
	return rule.file == l.File && l.Level >= rule.level && containsAll(l.Message, rule.all)
}

// bringsForeignText reports whether the lines of a file of osqueryd's source quote what a
// server chose. Of these only config.cpp has something to quote before a config was
// fetched: the name of a query that an earlier osqueryd died in, out of its database.
func bringsForeignText(file string) bool {
	switch file {
	case "config.cpp", "packs.cpp", "scheduler.cpp", "query.cpp", "distributed.cpp", "sql.cpp",
		"sqlite_util.cpp", "virtual_table.cpp", "carver.cpp", "views.cpp", "decorators.cpp":
		return true
	}
	return false
}

// verdict is what osqueryd's own words have told so far: the best rule that a line matched.
type verdict struct {
	rules []causeRule
	best  int    // index of the rule; len(rules) when there is none
	line  string // that matched it
}

func newVerdict() verdict {
	rules := causeRules()
	return verdict{rules: rules, best: len(rules)}
}

// hear takes one line into account.
func (v *verdict) hear(l glog.Line) {
	for i, rule := range v.rules[:v.best] {
		if rule.matches(l) {
			v.best, v.line = i, l.Raw
			return
		}
	}
}

// forget voids what was said, because osqueryd got over it.
func (v *verdict) forget() { v.best, v.line = len(v.rules), "" }

// cause is CauseUnknown when nothing telling was said.
func (v *verdict) cause() stats.Cause {
	if v.best == len(v.rules) {
		return stats.CauseUnknown
	}
	return v.rules[v.best].cause
}

func containsAll(s string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// causeFromError returns the cause of a failure on our side. A want of resources comes
// first: it makes everything else fail in ways that look like something else.
func causeFromError(err error) stats.Cause {
	switch {
	case errors.Is(err, process.ErrResources), outOfResources(err):
		return stats.CauseResources
	case errors.Is(err, ErrBinaryMissing), errors.Is(err, process.ErrBinaryNotFound):
		return stats.CauseBinaryMissing
	case errors.Is(err, process.ErrTextBusy), errors.Is(err, syscall.ETXTBSY):
		return stats.CauseBinaryBusy
	case errors.Is(err, errBinarySlow):
		return stats.CauseStartTimeout
	case errors.Is(err, ErrBinaryUnusable), errors.Is(err, process.ErrPermission),
		errors.Is(err, process.ErrNotExecutable):
		return stats.CauseBinaryUnusable
	case errors.Is(err, errLeftover):
		return stats.CauseLeftover
	case errors.Is(err, errStartTimeout):
		return stats.CauseStartTimeout
	case errors.Is(err, errCrashLoop):
		return stats.CauseCrashLoop
	case errors.Is(err, errUnhealthy):
		return stats.CauseUnhealthy
	case errors.Is(err, errPanic):
		return stats.CausePanic
	case errors.Is(err, errFlags):
		return stats.CauseFlagRefused
	case errors.Is(err, errDirectory), errors.Is(err, fs.ErrPermission):
		return stats.CauseDirectory
	default:
		return stats.CauseUnknown
	}
}

// hintAfter is hint for an osqueryd that exited by itself.
func hintAfter(c stats.Cause, code int) string {
	if c == stats.CauseExit && code == exitCatastrophic {
		return "osqueryd gave up by itself: over its database, a result that it could not log, or a feature that an option " +
			"of its config switched on; its last lines may say which"
	}
	return hint(c)
}

// exitCatastrophic is osqueryd's exit code when something that it depends on failed.
const exitCatastrophic = 78

// hint says what to do about a cause.
func hint(c stats.Cause) string {
	hints := map[stats.Cause]string{
		stats.CauseStartTimeout:    "look at osqueryd's last lines, or allow more time by WithStartTimeout",
		stats.CauseUnhealthy:       "osqueryd ran but did not answer; look for a query that takes long, or allow more by WithHealth",
		stats.CauseOutOfMemory:     "look for the query that ran last, or raise the limit by WithWatchdog",
		stats.CauseDatabaseLocked:  "another osqueryd holds the instance's database; end it, or use a directory of the instance's own",
		stats.CauseDatabaseCorrupt: "osqueryd puts it aside as .backup and starts a fresh one; look for a full or failing disk",
		stats.CausePidfileBusy:     "another osqueryd holds the instance's pidfile; end it, or use a directory of the instance's own",
		stats.CausePluginMissing:   "osqueryd did not find our extension in time; allow more by WithExtensionsTimeout",
		stats.CauseLoggerFailed:    "osqueryd could not hand a result to our extension and ended itself",
		stats.CauseFlagRefused:     "correct the flag that osqueryd names, given by WithFlag",
		stats.CauseBinaryMissing:   "install osquery, or correct the path given by WithBinary",
		stats.CauseBinaryUnusable:  "install an osqueryd for this system and user; osqueryd's words or the error say what is wrong",
		stats.CauseBinaryBusy:      "close the file before osqueryd is started, and replace binaries by rename",
		stats.CauseDirectory:       "correct the owner or mode, or end the other host that uses the directory",
		stats.CauseResources:       "free descriptors, processes, memory or disk, or raise the limits of this host; it is tried again",
		stats.CauseNoSocket:        "osqueryd runs without its extension socket; check the directory of the socket",
		stats.CauseCrashLoop:       "the worker died too often; look at the queries that ran, and at osqueryd's last lines",
		stats.CauseLeftover:        "an osqueryd that an earlier host left behind would not end; end it by hand",
		stats.CauseSignal:          "somebody else ended osqueryd: the kernel, for want of memory, or another program",
		stats.CausePanic:           "mend the host's code that the error names; the event of the panic has its stack",
		stats.CauseUnknown:         "the error says what failed; osqueryd's last lines may say more",
		stats.CauseExit:            "osqueryd ended by itself; its last lines may say why",
	}
	return hints[c]
}
