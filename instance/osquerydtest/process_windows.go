package osquerydtest

import (
	"os"
	"os/exec"
	"os/signal"
)

// handleSignals takes Ctrl-C and Ctrl-Break alone: Windows has no others.
func (p *process) handleSignals() (stop func()) {
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, os.Interrupt)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-ch:
				if !p.ignoreTerm.Load() {
					p.requestStop(0)
				}
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(ch); close(done) }
}

func killSelf(int) { os.Exit(1) }

// signalProcess terminates: there is no gentler way.
func signalProcess(p *os.Process, _, term bool) {
	if term {
		_ = p.Kill()
	}
}

func inheritLock(*exec.Cmd, *os.File) {}

func parentPID() int { return os.Getppid() }

func exitStatus(state *os.ProcessState) int { return state.ExitCode() }
