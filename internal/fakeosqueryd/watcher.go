package fakeosqueryd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"time"
)

const (
	exitCatastrophic = 78
	respawnLimit     = 4 // quick deaths
	respawnDelay     = 5 // seconds, plus 2^n
)

// watcher keeps one worker alive.
type watcher struct {
	p       *Process
	pidfile *pidfile

	worker  *exec.Cmd
	exited  chan struct{} // closed when the worker was waited for
	spawned time.Time
	quick   int // quick deaths; never reset
	status  int // of the last worker; -1 while one lives

	kills chan killRequest
}

// killRequest asks for a watchdog's kill.
type killRequest struct {
	reason string
	done   chan error
}

func newWatcher(p *Process) *watcher {
	return &watcher{p: p, status: -1, kills: make(chan killRequest)}
}

func (w *watcher) run() int {
	p := w.p
	p.phase(PhaseBeforePidfile)
	var ok bool
	if w.pidfile, ok = takePidfile(p); !ok {
		return 1
	}
	defer w.pidfile.release(p)
	p.phase(PhaseAfterPidfile)
	w.loop()
	<-p.stop
	p.phase(PhaseStop)
	w.stopWorker(p.conf.deadline(p.flags.seconds("alarm_timeout") - 4*time.Second))
	if w.status >= 0 {
		p.setExitCode(w.status)
	}
	return p.exitCode()
}

// loop looks after the worker once a poll. When it ends without a request to
// stop, the watcher idles: osqueryd does, too.
func (w *watcher) loop() {
	p := w.p
	tick := time.NewTicker(p.conf.watcherPoll())
	defer tick.Stop()
	for {
		if !w.alive() && !w.replace() {
			return
		}
		select {
		case <-tick.C:
		case k := <-w.kills:
			k.done <- w.watchdogKill(k.reason)
		case <-p.stop:
			return
		}
	}
}

func (w *watcher) alive() bool { return w.worker != nil && !isClosed(w.exited) }

// replace starts the first worker or the next one; false ends the loop.
func (w *watcher) replace() bool {
	p := w.p
	if w.worker != nil {
		w.status = max(exitStatus(w.worker.ProcessState), 0)
	}
	switch {
	case p.stopping():
		return false
	case w.status == exitCatastrophic:
		p.fail(exitCatastrophic, "Worker returned exit status")
		return false
	case w.quick == respawnLimit:
		p.fail(1, "Too many worker restarts")
		return false
	}
	if !w.spawned.IsZero() && time.Since(w.spawned) < p.conf.quickDeath() && !w.pause() {
		return false
	}
	return w.spawn()
}

// pause waits before the respawn after a quick death.
func (w *watcher) pause() bool {
	p := w.p
	w.quick++
	p.log.warn("watcher.cpp:718", "osqueryd worker respawning too quickly: %d times", w.quick)
	seconds := respawnDelay + int64(math.Pow(2, float64(w.quick)))
	seconds = min(seconds, p.flags.num("watchdog_max_delay"))
	return p.sleep(p.conf.period(time.Duration(seconds) * time.Second))
}

func (w *watcher) spawn() bool {
	p := w.p
	if _, err := os.Stat(p.argv0); err != nil {
		p.log.warn("watcher.cpp:756", "osqueryd doesn't exist in: %s", p.argv0)
		return w.worker != nil // the very first failure ends the loop
	}
	if !p.flags.bool("allow_unsafe") && !safeBinary(p.argv0) {
		p.fail(1, "osqueryd has unsafe permissions: %s", p.argv0)
		return false
	}
	// The worker outlives the watcher, as osqueryd's does.
	cmd := exec.CommandContext(context.Background(), p.argv0)
	cmd.Args = p.id.Args
	cmd.Env = append(os.Environ(), fmt.Sprintf("OSQUERY_WORKER=%d", p.id.PID))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	inheritLock(cmd, w.pidfile.file)
	if err := cmd.Start(); err != nil {
		p.log.error("watcher.cpp:714", "osqueryd could not create a worker process")
		p.requestStop(1)
		return false
	}
	exited := make(chan struct{})
	w.worker, w.exited, w.spawned, w.status = cmd, exited, time.Now(), -1
	go func() {
		defer close(exited)
		_ = cmd.Wait() // the status is read from ProcessState
	}()
	p.log.debug("watcher.cpp:779", "osqueryd watcher (%d) executing worker (%d)", p.id.PID, cmd.Process.Pid)
	return true
}

// watchdogKill does what the watchdog does with a worker over its limits.
func (w *watcher) watchdogKill(reason string) error {
	if !w.alive() {
		return errors.New("no worker is alive")
	}
	w.p.log.warn("watcher.cpp:405", "osqueryd worker (%d) stopping: %s", w.worker.Process.Pid, reason)
	signalProcess(w.worker.Process, true, false)
	w.stopWorker(w.p.conf.deadline(w.p.flags.seconds("watchdog_forced_shutdown_delay")))
	return nil
}

func (w *watcher) stopWorker(grace time.Duration) {
	if !w.alive() {
		return
	}
	signalProcess(w.worker.Process, false, true)
	if w.waitExit(grace) {
		return
	}
	w.p.log.warn("watcher.cpp:448", "osqueryd worker (%d) could not be stopped. Sending kill signal.", w.worker.Process.Pid)
	_ = w.worker.Process.Kill()
	if !w.waitExit(w.p.conf.deadline(2 * time.Second)) {
		w.p.fail(exitCatastrophic, "Watcher cannot stop worker process (%d).", w.worker.Process.Pid)
	}
}

func (w *watcher) waitExit(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.exited:
		return true
	case <-t.C:
		return false
	}
}

// kill asks the loop for a watchdog's kill and waits until the worker is gone.
func (w *watcher) kill(reason string) error {
	k := killRequest{reason: reason, done: make(chan error, 1)}
	select {
	case w.kills <- k:
		return <-k.done
	case <-w.p.stop:
		return errors.New("the watcher is stopping")
	}
}

func (w *watcher) memoryLimit() int64 {
	if n := w.p.flags.num("watchdog_memory_limit"); n > 0 {
		return n
	}
	if w.p.flags.num("watchdog_level") == 1 {
		return 100
	}
	return 200
}
