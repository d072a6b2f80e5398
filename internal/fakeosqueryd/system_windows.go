package fakeosqueryd

import (
	"net"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// handleSignals takes Ctrl-C and Ctrl-Break alone: Windows has no others.
func (p *Process) handleSignals() (stop func()) {
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

func dialPipe(path string, timeout time.Duration) (net.Conn, error) {
	return winio.DialPipe(path, &timeout)
}

// A named pipe is no file: there is nothing to clear.
func clearSocket(string) error  { return nil }
func removeStale(string)        {}
func removeSocket(string) error { return nil }

func listenPipe(path string) (net.Listener, error) { return winio.ListenPipe(path, nil) }

const lockText = "The process cannot access the file because it is being used by another process."

// tryLock locks a byte far beyond the content, so that the file stays
// readable.
func tryLock(f *os.File) error {
	flags := uint32(windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY)
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
}

func safeBinary(string) bool { return true }
