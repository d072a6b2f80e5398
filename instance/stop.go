package instance

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// stopPart is a part of a stop.
type stopPart int

// The parts of a stop, in their order.
const (
	stopTerminate stopPart = iota // osqueryd exits after SIGTERM
	stopKill                      // it, and all it started, is killed
	stopHost                      // calls of the host's code return
	stopDeliver                   // queued logs are delivered
	stopFiles                     // files are removed, the queues closed
	stopObservers                 // observers receive the events
)

// shares returns, in percent of Timeouts.Stop, how long a part may take, and when it is over
// even if all parts before it used theirs up.
func (p stopPart) shares() (atMost, until time.Duration) {
	switch p {
	case stopTerminate:
		return 64, 64
	case stopKill:
		return 20, 70
	case stopHost:
		return 20, 76
	case stopDeliver:
		return 12, 84
	case stopFiles:
		return 20, 95
	default:
		return 60, 100
	}
}

// stopFloor is what every wait of a stop has at least, in percent: what has ended already
// must be noticed.
const stopFloor = 1

// startStopClock begins the time of a stop: at the end of Run's context, or now.
func (r *run) startStopClock() {
	r.stopBegan = time.Now()
	if asked := r.stopAsked.Load(); asked != nil {
		r.stopBegan = *asked
	}
}

// left returns how much of a stop's time a part of it has.
func (r *run) left(p stopPart) time.Duration {
	percent := r.in.live.Load().timeouts.stop() / 100
	atMost, until := p.shares()
	return max(stopFloor*percent, min(atMost*percent, time.Until(r.stopBegan.Add(until*percent))))
}

// stop ends whatever the run still has, in an order that loses nothing: our own
// connections, so that osqueryd does not wait for them; osqueryd, which may hand us
// results until it is gone; our server; the delivery of what is queued; the files.
func (r *run) stop(asked bool) exit {
	r.phase = stats.PhaseStop
	r.startStopClock()
	r.setOver()
	r.in.queries.Fail(ErrNotRunning)
	x := exit{code: -1}
	if r.proc != nil {
		x = r.stopProcess()
	}
	r.closeSession(r.left(stopHost))
	r.in.hostCheck.wait(r.left(stopHost), r.log)
	if asked {
		r.drain()
	}
	pid, place := r.pid(), r.in.place()
	r.tidy("removing files", func() {
		if pid != 0 {
			removePidfile(place.pidfile, pid)
		}
		if r.madeDirs {
			removeSockets(place)
		}
	})
	r.giveBack()
	return x
}

// tidy does on the disk what the end of a run demands, come what may, after what was begun
// there before.
func (r *run) tidy(what string, f func()) {
	done := r.in.dirLock.disk.Go(func() {
		r.o.diskHook(what)
		f()
	})
	if r.diskHangs {
		return
	}
	if r.diskHangs = !guard.Wait(done, r.left(stopFiles)); r.diskHangs {
		r.log.Error("the directory's file system does not answer; what is to be done there is left to itself", "what", what)
	}
}

// giveBack ends the run's hold on the directory, once nobody delivers from it.
func (r *run) giveBack() {
	shipped := make(chan struct{})
	close(shipped)
	if r.stopShipping != nil {
		if shipped = r.stopShipping(); !guard.Wait(shipped, r.left(stopFiles)) {
			r.log.Error("shipping does not end; it is left to itself")
			r.in.setLeftover(shipped)
		}
	}
	if r.entered {
		r.tidy("closing it", func() {
			<-shipped
			r.in.leave()
		})
	}
}

// removePidfile removes the pidfile of a process that was killed, perhaps before it
// had written it, and no other's.
func removePidfile(path string, pid int) {
	text, err := os.ReadFile(path)
	whose := strings.TrimSpace(string(text))
	if err != nil || whose != "" && whose != strconv.Itoa(pid) {
		return
	}
	lock := flock.New(path)
	if locked, err := lock.TryLock(); err != nil || !locked {
		return // a stranger's, who is about to write it
	}
	_ = os.Remove(path) // osqueryd gets over a stale one
	_ = lock.Unlock()
}

func (r *run) stopProcess() exit {
	x := exit{ours: !r.hasExited()}
	if x.ours {
		r.in.emit(stats.RunStopping{Head: r.in.head()})
		r.hangUp()
		r.endProcess()
	}
	r.waitGroup()
	x.code = -1
	if e := r.proc.Exit(); !e.Ended.IsZero() { // it is still zero for one that cannot be killed
		x.code, x.signal, x.uptime = e.Code, e.Signal, e.Ended.Sub(e.Started)
	}
	return x
}

// endProcess sends SIGTERM and, when the grace is over, kills the group.
func (r *run) endProcess() {
	if r.in.live.Load().timeouts.Stop > 0 {
		grace := r.left(stopTerminate)
		if err := r.proc.Terminate(); err != nil {
			r.log.Warn("SIGTERM could not be sent to osqueryd", "err", err)
		}
		if r.exitsWithin(grace) {
			return
		}
		r.log.Warn("osqueryd did not stop in time and is killed", "grace", grace)
	}
	if err := r.proc.KillGroup(); err != nil {
		r.log.Error("osqueryd could not be killed", "err", err)
	}
	if !r.exitsWithin(r.left(stopKill)) {
		r.log.Error("osqueryd does not end although it was killed", "pid", r.proc.PID())
	}
}

func (r *run) exitsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-r.proc.Exited():
		return true
	case <-timer.C:
		return false
	}
}

// waitGroup makes sure that the worker, which may outlive its watcher, is gone
// too, and only then removes the lease.
func (r *run) waitGroup() {
	ctx, cancel := context.WithTimeout(context.Background(), r.left(stopKill))
	defer cancel()
	if err := r.proc.KillGroup(); err != nil {
		r.log.Warn("what osqueryd left behind could not be killed", "err", err)
	}
	if err := r.proc.WaitGroupGone(ctx); err != nil {
		r.log.Error("processes of this run are left; the next start looks for them by the lease", "err", err)
		return
	}
	lease := r.in.paths.lease
	r.tidy("removing the lease", func() {
		if err := process.RemoveLease(lease); err != nil {
			r.log.Warn("the lease could not be removed", "err", err)
		}
	})
}

// drain delivers what is queued, for a while; the rest stays on disk.
func (r *run) drain() {
	if r.in.live.Load().timeouts.Stop < 0 {
		return
	}
	left := r.left(stopDeliver)
	ctx, cancel := context.WithTimeout(context.Background(), left*2/3)
	defer cancel()
	err := guard.Call(ctx, left/3, func() error { return r.in.ext.Flush(ctx) }, nil)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		r.log.Debug("not everything queued was delivered", "err", err)
	}
}
