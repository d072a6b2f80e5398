package instance

import (
	"context"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/osqvisor/osqvisor/internal/glog"
	"github.com/osqvisor/osqvisor/stats"
)

// words is what a run's osqueryd prints: logged, kept as a tail, and read for
// what nothing else tells. take is called by the reader of its output, the
// rest by the run's goroutine.
type words struct {
	in   *Instance
	log  *slog.Logger
	tail *glog.Tail

	mu     sync.Mutex
	said   verdict
	reason string // why the watchdog stopped a worker that was not replaced yet
	memory bool   // the newest reason was memory
	backup string // where the corrupt database went
}

func newWords(in *Instance, log *slog.Logger, tail *glog.Tail) *words {
	return &words{in: in, log: log, tail: tail, said: newVerdict()}
}

// take hears one line.
func (w *words) take(line []byte) {
	w.tail.Add(line)
	l, ok := glog.Parse(line)
	if !ok {
		w.log.LogAttrs(context.Background(), slog.LevelWarn, string(line), slog.String("source", "osqueryd"))
		w.read(string(line))
		return
	}
	w.log.LogAttrs(context.Background(), l.Level, l.Message,
		slog.String("source", "osqueryd"), slog.String("file", l.File), slog.Int("line", l.Line))
	w.read(l.Message)
}

var (
	memoryPattern   = regexp.MustCompile(`stopping: Memory limits exceeded: (\d+)(?: bytes \(limit is (\d+)MB\))?`)
	cpuPattern      = regexp.MustCompile(`stopping: (?:Maximum sustainable CPU utilization limit|.*utilization).* exceeded`)
	cpuLimitPattern = regexp.MustCompile(`limit (\d+)ms exceeded for (\d+) seconds`)
	stopPattern     = regexp.MustCompile(`osqueryd worker \(\d+\) stopping: (.*)`)
	backupPattern   = regexp.MustCompile(`^Backing up RocksDB database: (.+)`)
	denyPattern     = regexp.MustCompile(`[Ss]cheduled query may have failed: (.+)`)
)

// read turns what osqueryd says into events.
func (w *words) read(msg string) {
	w.mu.Lock()
	w.said.hear(msg)
	w.mu.Unlock()
	if m := denyPattern.FindStringSubmatch(msg); m != nil {
		if w.in.denylists() {
			w.in.emit(stats.QueryDenylisted{Head: w.in.head(), Query: strings.TrimSpace(m[1])})
		}
		return
	}
	if w.readDatabase(msg) {
		return
	}
	m := stopPattern.FindStringSubmatch(msg)
	if m == nil {
		return
	}
	e := stats.WatchdogKilled{Head: w.in.head(), Resource: "other", Message: m[1]}
	if mem := memoryPattern.FindStringSubmatch(msg); mem != nil {
		e.Resource = "memory"
		e.Used = number(mem[1])
		e.Limit = number(mem[2]) << 20
	} else if cpuPattern.MatchString(msg) {
		e.Resource = "cpu"
		if c := cpuLimitPattern.FindStringSubmatch(msg); c != nil {
			e.Limit = number(c[1])
		}
	}
	w.mu.Lock()
	w.reason, w.memory = m[1], e.Resource == "memory"
	w.mu.Unlock()
	w.in.emit(e)
}

// corruptText is what osqueryd says when it gives a database up.
const corruptText = "Destroying RocksDB database due to corruption"

// readDatabase says whether msg is of a corrupt database.
func (w *words) readDatabase(msg string) bool {
	if m := backupPattern.FindStringSubmatch(msg); m != nil {
		w.setBackup(m[1])
		return true
	}
	if !strings.HasPrefix(msg, corruptText) {
		return false
	}
	w.in.emit(stats.DatabaseReplaced{Head: w.in.head(), Backup: w.setBackup("")})
	return true
}

// setBackup gives what was set before.
func (w *words) setBackup(path string) (before string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.backup = w.backup, path
	return before
}

// denylists says whether osqueryd bars a scheduled query that it died in: without
// its watchdog it does so no more since 5.16.
func (in *Instance) denylists() bool {
	return !in.o.watchdog.Disabled || versionLess(in.Binary().Version, "5.16.0")
}

// cause is what osqueryd's words say of its end, since it was last ready.
func (w *words) cause() stats.Cause {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said.cause()
}

// ready voids what was said on the way: osqueryd got over it.
func (w *words) ready() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said.forget()
}

// takeReason gives why the last worker was stopped, once.
func (w *words) takeReason() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.reason
	w.reason = ""
	return r
}

// outOfMemory says that the watchdog's last word was about memory.
func (w *words) outOfMemory() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.memory && w.reason != ""
}

// number is 0 for what is not one: osqueryd's older texts lack some.
func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0
	}
	return n
}
