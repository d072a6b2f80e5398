package instance

import (
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// causeRule ties words that osqueryd prints to the cause of its end.
type causeRule struct {
	cause stats.Cause
	// all must be in one line of stderr.
	all []string
}

// causeRules is the one table of osqueryd's texts. The first rule that a line
// matches wins, rules before lines, so what is more telling comes first.
func causeRules() []causeRule {
	return []causeRule{
		{stats.CauseFlagRefused, []string{"ERROR: unknown command line flag"}},
		{stats.CauseFlagRefused, []string{"ERROR: illegal value"}},
		{stats.CauseFlagRefused, []string{"ERROR: flag", "missing its argument"}},
		{stats.CauseFlagRefused, []string{"ERROR: failed validation of new value"}},
		{stats.CauseBinaryUnusable, []string{"error while loading shared libraries"}},
		{stats.CauseBinaryUnusable, []string{"unsafe permissions"}},
		{stats.CausePidfileBusy, []string{"Pidfile check failed"}},
		{stats.CauseDatabaseLocked, []string{"LOCK: Resource temporarily unavailable"}},
		{stats.CauseDatabaseLocked, []string{"Rocksdb open failed (5:0)"}},
		{stats.CauseDatabaseCorrupt, []string{"Rocksdb open failed (2:"}},
		{stats.CauseDatabaseCorrupt, []string{"Destroying RocksDB database due to corruption"}},
		{stats.CauseDirectory, []string{"No space left on device"}},
		{stats.CauseLoggerFailed, []string{"Error logging the results of query"}},
		{stats.CausePluginMissing, []string{"Cannot activate", "plugin"}},
		{stats.CauseCrashLoop, []string{"Too many worker restarts"}},
		{stats.CauseOutOfMemory, []string{"std::bad_alloc"}},
		{stats.CauseNoSocket, []string{"Extension socket directory missing"}},
		{stats.CauseNoSocket, []string{"Extensions disabled"}},
	}
}

// verdict is what osqueryd's own words have told so far: the best rule that a line matched.
type verdict struct {
	rules []causeRule
	best  int // index of the rule; len(rules) when there is none
}

func newVerdict() verdict {
	rules := causeRules()
	return verdict{rules: rules, best: len(rules)}
}

// hear takes one line into account.
func (v *verdict) hear(line string) {
	for i, rule := range v.rules[:v.best] {
		if containsAll(line, rule.all) {
			v.best = i
			return
		}
	}
}

// forget voids what was said, because osqueryd got over it.
func (v *verdict) forget() { v.best = len(v.rules) }

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

// causeFromError gives the cause of a failure on our side.
func causeFromError(err error) stats.Cause {
	switch {
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
		stats.CauseDirectory:       "make room, correct the owner or mode, or end the other host that uses the directory",
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
