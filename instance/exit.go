package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// ExitError reports why a run ended although its context had not.
type ExitError struct {
	// Instance and Run name the run.
	Instance, Run string
	// Phase is how far the run had come.
	Phase stats.Phase
	// Cause is why it ended.
	Cause stats.Cause
	// Code is osqueryd's exit code, or -1 when it did not exit by itself.
	Code int
	// Signal names the signal that ended osqueryd; empty when none did.
	Signal string
	// Uptime is from spawn to exit; 0 when nothing was spawned.
	Uptime time.Duration
	// Stderr is the end of what osqueryd printed, oldest line first.
	Stderr []string
	// Line is the line of Stderr that explains best why osqueryd ended; empty when none does.
	Line string
	// Hint is what to do about it.
	Hint string
	// Err is what failed on our side, if anything did.
	Err error
}

// Error returns one line for a log, with Line in it.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "osqueryd of instance %q ended in phase %s: %s", e.Instance, e.Phase, e.Cause)
	switch {
	case e.Signal != "":
		fmt.Fprintf(&b, " (%s after %s)", e.Signal, e.Uptime.Round(time.Millisecond))
	case e.Uptime > 0 && e.Code >= 0:
		fmt.Fprintf(&b, " (exit code %d after %s)", e.Code, e.Uptime.Round(time.Millisecond))
	}
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	if e.Line != "" {
		fmt.Fprintf(&b, "; osqueryd printed: %s", e.Line)
	}
	if e.Hint != "" {
		fmt.Fprintf(&b, "; %s", e.Hint)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *ExitError) Unwrap() error { return e.Err }

// exit is how osqueryd left.
type exit struct {
	code   int
	signal string
	uptime time.Duration
	ours   bool // we ended it
}

// explain turns what is known into one cause: our own reason if we ended it,
// else what osqueryd printed, else how it exited.
func (r *run) explain(phase stats.Phase, err error, x exit) *ExitError {
	e := &ExitError{
		Instance: r.o.id, Run: r.id, Phase: phase, Code: x.code, Signal: x.signal,
		Uptime: x.uptime, Stderr: r.stderr.tail.Lines(), Cause: stats.CauseUnknown,
	}
	if !errors.Is(err, errExited) {
		e.Err = err
		e.Cause = causeFromError(err)
	}
	if e.Cause == stats.CauseUnknown || e.Cause == stats.CauseStartTimeout {
		e.Cause = r.causeOfExit(e.Cause, x)
	}
	e.Line, e.Hint = r.tellingLine(x), hintAfter(e.Cause, x.code)
	return e
}

func (r *run) causeOfExit(otherwise stats.Cause, x exit) stats.Cause {
	printed, _ := r.stderr.cause()
	switch {
	case r.proc == nil || x.ours || otherwise != stats.CauseUnknown:
		if printed != stats.CauseUnknown {
			return printed
		}
		return otherwise
	case killed(x): // what it printed before did not end it
		if x.signal == "SIGKILL" && r.noteOOM() {
			return stats.CauseOutOfMemory
		}
		return stats.CauseSignal
	case printed != stats.CauseUnknown:
		return printed
	}
	if seen := r.circumstances(x); seen != stats.CauseUnknown {
		return seen
	}
	if x.signal != "" {
		return stats.CauseSignal
	}
	return stats.CauseExit
}

// tellingLine returns the line of osqueryd's that explains best why it ended. An osqueryd that was
// killed printed nothing about it.
func (r *run) tellingLine(x exit) string {
	_, line := r.stderr.cause()
	if line == "" && !killed(x) {
		line = r.stderr.lastTrouble()
	}
	return line
}

// killed reports whether a signal of somebody else's ended osqueryd.
func killed(x exit) bool { return x.signal != "" && !crash(x.signal) && !x.ours }

// noteOOM reports whether the kernel killed for want of memory since the last look. That it
// was of ours is likely, no more: it counts for all of our control group.
func (r *run) noteOOM() bool {
	before := r.oomSeen
	r.oomSeen = r.o.oomKills()
	return r.oomSeen > before
}

// configMayBe reports whether the config may be to blame for the end of a run: osqueryd crashed,
// gave up, hung or used too much memory. A signal from outside, a busy database or a full disk is
// nothing that a config does.
func configMayBe(e *ExitError) bool {
	switch e.Cause {
	case stats.CauseExit:
		return e.Code != 0
	case stats.CauseSignal:
		return crash(e.Signal)
	case stats.CauseOutOfMemory, stats.CauseCrashLoop, stats.CauseUnhealthy, stats.CauseStartTimeout, stats.CauseLoggerFailed,
		stats.CausePluginMissing:
		return true
	default:
		return false
	}
}

// crash holds the signals that a program ends itself by.
func crash(signal string) bool {
	return signal == "SIGABRT" || signal == "SIGSEGV" || signal == "SIGBUS" || signal == "SIGFPE" || signal == "SIGILL"
}

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
// consulted only for lines in which no server's text can be; see stderrParser.
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

// causeMatch is the best rule that a line of osqueryd's matched so far.
type causeMatch struct {
	rules []causeRule
	best  int    // index of the rule; len(rules) when there is none
	line  string // that matched it
}

func newCauseMatch() causeMatch {
	rules := causeRules()
	return causeMatch{rules: rules, best: len(rules)}
}

// match applies the rules to one line.
func (m *causeMatch) match(l glog.Line) {
	for i, rule := range m.rules[:m.best] {
		if rule.matches(l) {
			m.best, m.line = i, l.Raw
			return
		}
	}
}

// reset discards the match: osqueryd recovered from it.
func (m *causeMatch) reset() { m.best, m.line = len(m.rules), "" }

// cause returns CauseUnknown when no line matched.
func (m *causeMatch) cause() stats.Cause {
	if m.best == len(m.rules) {
		return stats.CauseUnknown
	}
	return m.rules[m.best].cause
}

func containsAll(s string, parts []string) bool {
	for _, w := range parts {
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

// hintAfter returns the hint for an osqueryd that exited by itself.
func hintAfter(c stats.Cause, code int) string {
	if c == stats.CauseExit && code == exitCatastrophic {
		return "osqueryd gave up by itself: over its database, a result that it could not log, or a feature that an option " +
			"of its config switched on; its last lines may say which"
	}
	return c.Hint()
}

// exitCatastrophic is osqueryd's exit code when something that it depends on failed.
const exitCatastrophic = 78

// leastRoom is what a disk has free on which nothing fails for want of room.
const leastRoom = 256 << 10

// circumstances looks for the cause of an exit of osqueryd itself in what no server can
// choose, where its output cannot be trusted or has no cause.
func (r *run) circumstances(x exit) stats.Cause {
	if r.looped(x) {
		return stats.CauseCrashLoop
	}
	if c := r.in.lookAround(x); c != stats.CauseUnknown {
		return c
	}
	if x.code == exitCatastrophic {
		return r.pluginCause()
	}
	return stats.CauseUnknown
}

// lookPatience is how long the disk has to show what is on it; it may hang.
const lookPatience = 2 * time.Second

// lookAround looks at the disk, for a bounded while, for what made osqueryd exit so.
func (in *Instance) lookAround(x exit) stats.Cause {
	select {
	case in.looking <- struct{}{}:
	default:
		return stats.CauseUnknown // an earlier look hangs
	}
	found := make(chan stats.Cause, 1)
	b, p := in.Binary(), in.place()
	go func() { // it ends when the system answers
		defer func() { <-in.looking }()
		found <- causeOnDisk(x, b, p)
	}()
	timer := time.NewTimer(lookPatience)
	defer timer.Stop()
	select {
	case c := <-found:
		return c
	case <-timer.C:
		return stats.CauseUnknown
	}
}

func causeOnDisk(x exit, b Binary, p paths) stats.Cause {
	failed := x.code == 1 || x.code == exitCatastrophic
	switch {
	case (failed || crash(x.signal)) && diskFull(p.dir):
		return stats.CauseResources
	case x.code == 1 && !usable(b): // which the watcher looks at before each worker
		return stats.CauseBinaryUnusable
	case failed && lockedByAnother(filepath.Join(p.database, "LOCK")):
		return stats.CauseDatabaseLocked
	}
	return stats.CauseUnknown
}

func diskFull(dir string) bool {
	free := freeRoom(dir)
	return free >= 0 && free < leastRoom
}

// usable is true as well for a binary that is not there, which the next start reports.
func usable(b Binary) bool {
	_, err := inspectBinary(&b)
	return !errors.Is(err, ErrBinaryUnusable)
}

// pluginCause returns, for an exit with 78, how far osqueryd came with our plugins.
func (r *run) pluginCause() stats.Cause {
	r.in.mu.Lock()
	asked := r.activated
	r.in.mu.Unlock()
	switch {
	case asked.config > 0 && !r.begun: // it has the config and did not find the logger
		return stats.CausePluginMissing
	case r.in.logging.stuck(time.Now()):
		return stats.CauseLoggerFailed
	}
	return stats.CauseUnknown
}

// quickDeath is what a worker lives at most, by osqueryd's rule of 4 s and some seconds for
// us to notice, to count as one that died quickly.
const quickDeath = 6 * time.Second

// loopedDeaths is how many quick deaths make a watcher give up at the next. Of its four we
// may have missed one that died before its socket was there.
const loopedDeaths = 3

// looped reports whether the watcher ended in the middle of a series of quick deaths.
func (r *run) looped(x exit) bool {
	return x.signal == "" && !r.o.watchdog.Disabled && r.workerless && r.quick >= loopedDeaths
}

// noteDeath notes that the worker of the session is gone.
func (r *run) noteDeath() {
	r.workerless = true
	if time.Since(r.met) < quickDeath {
		r.quick++
	}
}
