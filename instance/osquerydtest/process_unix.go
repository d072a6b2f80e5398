//go:build !windows

package osquerydtest

import (
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// handleSignals does what osqueryd does on each signal. Others keep their
// default: they kill.
func (p *process) handleSignals() (stop func()) {
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGQUIT)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-ch:
				p.signal(s)
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(ch); close(done) }
}

func (p *process) signal(s os.Signal) {
	switch {
	case s == syscall.SIGQUIT:
		killSelf(int(syscall.SIGQUIT)) // osqueryd does not handle it; Go's own handling is a trace and code 2
	case s == syscall.SIGUSR1:
		p.limitHit.Store(true)
	case p.ignoreTerm.Load():
		return
	}
	p.requestStop(0)
}

// killSelf sends a signal that cannot be handled here: the handler is taken
// away first, because the runtime's own would print a trace.
func killSelf(sig int) {
	s := syscall.Signal(sig)
	signal.Reset(s)
	defaultAction(s)
	_ = syscall.Kill(os.Getpid(), s)
	if s != syscall.SIGKILL {
		// Given to another thread, it may take an instant; without a core.
		select {}
	}
}

func signalProcess(p *os.Process, usr1, term bool) {
	if usr1 {
		_ = p.Signal(syscall.SIGUSR1)
	}
	if term {
		_ = p.Signal(syscall.SIGTERM)
	}
}

// inheritLock gives the worker the pidfile's descriptor, as an open without
// O_CLOEXEC does: an orphan keeps the lock.
func inheritLock(cmd *exec.Cmd, lock *os.File) {
	if lock != nil {
		cmd.ExtraFiles = []*os.File{lock}
	}
}

func parentPID() int { return os.Getppid() }

// exitStatus is -1 when a signal ended the process.
func exitStatus(state *os.ProcessState) int { return state.ExitCode() }
