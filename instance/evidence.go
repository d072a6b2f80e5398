package instance

import (
	"errors"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// leastRoom is what a disk has free on which nothing fails for want of room.
const leastRoom = 256 << 10

// circumstances looks for the cause of an exit of osqueryd's by itself where its words
// cannot be trusted or said nothing: in what no server can choose.
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

// usable is true as well for a binary that is not there, which the next start tells of.
func usable(b Binary) bool {
	_, err := inspectBinary(&b)
	return !errors.Is(err, ErrBinaryUnusable)
}

// pluginCause tells, for an exit with 78, how far osqueryd came with our plugins.
func (r *run) pluginCause() stats.Cause {
	r.in.mu.Lock()
	asked := r.asked
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
