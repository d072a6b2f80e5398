package instance

import (
	"context"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/stats"
)

// stderrParser reads what a run's osqueryd prints: it logs it, keeps a tail, and parses what
// is known from nowhere else. parse is called by the reader of the output, the other methods
// by the run's goroutine.
//
// osqueryd quotes names and SQL that a server chose, with the newlines in them, so that
// a whole line can be forged. Hence a line is trusted only until osqueryd has received anything
// from a server: until it fetches its config, or prints what an earlier osqueryd left in
// its database. After that a line is no more than a reason to look: at the process that
// is gone, at the file that was moved, at osqueryd's own table.
type stderrParser struct {
	in   *Instance
	log  *slog.Logger
	tail *glog.Tail
	// watcher reports whether a thread is of the process that we started.
	watcher func(thread uint64) bool

	mu       sync.Mutex
	foreign  bool // text from a server may be in what is printed
	best     causeMatch
	quick    int        // quick deaths of workers that the watcher counted
	looping  func()     // called when they are too many; nil when nobody waits
	stop     workerStop // the watchdog's newest decision
	suspects []string   // queries that osqueryd may have denylisted
	backup   string     // where the corrupt database went
	before   os.FileInfo
}

// workerStop is what the watchdog printed about a worker that it stops.
type workerStop struct {
	pid   int
	event stats.WatchdogKilled
}

func newStderrParser(in *Instance, log *slog.Logger, tail *glog.Tail) *stderrParser {
	w := &stderrParser{in: in, log: log, tail: tail, best: newCauseMatch(), watcher: func(uint64) bool { return true }}
	w.before, _ = os.Stat(in.backupPath()) // nil when there is none
	return w
}

// backupPath is where osqueryd moves a corrupt database.
func (in *Instance) backupPath() string { return in.place().database + ".backup" }

// parse reads one line.
func (w *stderrParser) parse(line []byte) {
	w.tail.Add(line)
	l, ok := glog.Parse(line)
	if !ok {
		l = glog.Line{Message: string(line), Raw: string(line)}
		w.log.LogAttrs(context.Background(), slog.LevelWarn, l.Message, slog.String("source", "osqueryd"))
	} else {
		w.log.LogAttrs(context.Background(), l.Level, l.Message,
			slog.String("source", "osqueryd"), slog.String("file", l.File), slog.Int("line", l.Line))
	}
	w.readTrusted(l)
	w.readUntrusted(l)
}

// crashLoopDeaths is how many workers in a row may die before they are ready; that many are a
// crash loop. osqueryd itself tries five, which takes some 50 s.
const crashLoopDeaths = 3

var quickPattern = regexp.MustCompile(`^osqueryd worker respawning too quickly: (\d+) times`)

// readTrusted draws conclusions from a line while no server's text can be in it.
func (w *stderrParser) readTrusted(l glog.Line) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.foreign = w.foreign || bringsForeignText(l.File); w.foreign {
		return
	}
	w.best.match(l)
	if m := quickPattern.FindStringSubmatch(l.Message); m != nil && l.File == watcherFile && l.Level >= slog.LevelWarn {
		w.quick = int(min(number(m[1]), 1<<10))
		w.reportLoop()
	}
}

// distrust is called before osqueryd receives anything from a server.
func (w *stderrParser) distrust() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.foreign = true
}

// onCrashLoop sets what is called, perhaps repeatedly, when workers die too often.
func (w *stderrParser) onCrashLoop(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looping = f
	w.reportLoop()
}

// reportLoop is called under the lock; looping does not block.
func (w *stderrParser) reportLoop() {
	if w.looping != nil && w.quick >= crashLoopDeaths {
		w.looping()
	}
}

// watcherFile is where the watcher logs what it does with the worker.
const watcherFile = "watcher.cpp"

var (
	memoryPattern   = regexp.MustCompile(`^Memory limits exceeded: (\d+)(?: bytes \(limit is (\d+)MB\))?`)
	cpuPattern      = regexp.MustCompile(`^(?:Maximum sustainable CPU utilization limit|.*utilization).* exceeded`)
	cpuLimitPattern = regexp.MustCompile(`limit (\d+)ms exceeded for (\d+) seconds`)
	stopPattern     = regexp.MustCompile(`^osqueryd worker \((\d+)\) stopping: (.*)`)
	backupPattern   = regexp.MustCompile(`^Backing up RocksDB database: (.+)`)
	denyPattern     = regexp.MustCompile(`^[Ss]cheduled query may have failed: (.+)`)
)

// readUntrusted notes what has to be verified elsewhere before it is reported.
func (w *stderrParser) readUntrusted(l glog.Line) {
	if l.Level < slog.LevelWarn {
		return
	}
	switch l.File {
	case "config.cpp":
		if m := denyPattern.FindStringSubmatch(l.Message); m != nil {
			w.suspect(strings.TrimSpace(m[1]))
		}
	case "rocksdb.cpp":
		w.readDatabase(l.Message)
	case watcherFile:
		w.readStop(l)
	}
}

// maxSuspects bounds what is kept until osqueryd's table can be read.
const maxSuspects = 64

func (w *stderrParser) suspect(query string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.suspects) < maxSuspects && !slices.Contains(w.suspects, query) {
		w.suspects = append(w.suspects, query)
	}
}

// takeSuspects returns the first lines of the names of queries that osqueryd may have denylisted.
func (w *stderrParser) takeSuspects() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.suspects
	w.suspects = nil
	return s
}

func (w *stderrParser) readStop(l glog.Line) {
	m := stopPattern.FindStringSubmatch(l.Message)
	if m == nil || !w.watcher(l.Thread) {
		return
	}
	e := stats.WatchdogKilled{Head: w.in.head(), Resource: "other", Message: m[2]}
	if mem := memoryPattern.FindStringSubmatch(m[2]); mem != nil {
		e.Resource = "memory"
		e.Used = number(mem[1])
		e.Limit = number(mem[2]) << 20
	} else if cpuPattern.MatchString(m[2]) {
		e.Resource = "cpu"
		if c := cpuLimitPattern.FindStringSubmatch(m[2]); c != nil {
			e.Limit = number(c[1])
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = workerStop{pid: int(number(m[1])), event: e}
}

// stopOf returns, once, why the watchdog stopped the worker of that pid, which is gone.
func (w *stderrParser) stopOf(pid int) (stats.WatchdogKilled, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stop
	w.stop = workerStop{}
	return s.event, pid != 0 && s.pid == pid
}

// corruptText is what osqueryd prints when it replaces a corrupt database.
const corruptText = "Destroying RocksDB database due to corruption"

func (w *stderrParser) readDatabase(msg string) {
	if m := backupPattern.FindStringSubmatch(msg); m != nil {
		w.setBackup(m[1])
		return
	}
	if !strings.HasPrefix(msg, corruptText) || !w.replaced() {
		return
	}
	w.in.emit(stats.DatabaseReplaced{Head: w.in.head(), Backup: w.setBackup("")})
}

// replaced reports whether the database was really moved away; the line may be forged.
func (w *stderrParser) replaced() bool {
	now, err := os.Stat(w.in.backupPath())
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.foreign {
		return true
	}
	moved := err == nil && (w.before == nil || !os.SameFile(w.before, now))
	if moved {
		w.before = now
	}
	return moved
}

// setBackup returns what was set before.
func (w *stderrParser) setBackup(path string) (before string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.backup = w.backup, path
	return before
}

// cause returns the cause that osqueryd printed since it was last ready, and the line.
func (w *stderrParser) cause() (stats.Cause, string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.best.cause(), w.best.line
}

// reset discards what was printed so far: osqueryd recovered from it.
func (w *stderrParser) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.best.reset()
}

// lastTrouble is the newest line that is more than information; empty when there is none.
func (w *stderrParser) lastTrouble() string {
	for _, line := range slices.Backward(w.tail.Lines()) {
		if l, ok := glog.Parse([]byte(line)); !ok && line != "" || l.Level >= slog.LevelWarn {
			return line
		}
	}
	return ""
}

// number returns 0 for anything that is not a number: older versions print fewer.
func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
