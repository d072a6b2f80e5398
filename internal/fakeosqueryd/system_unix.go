//go:build !windows

package fakeosqueryd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// handleSignals does what osqueryd does on each signal. Others keep their
// default: they kill.
func (p *Process) handleSignals() (stop func()) {
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

func (p *Process) signal(s os.Signal) {
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

// inheritLock passes the worker the pidfile's descriptor, as an open without
// O_CLOEXEC does: an orphan keeps the lock.
func inheritLock(cmd *exec.Cmd, lock *os.File) {
	if lock != nil {
		cmd.ExtraFiles = []*os.File{lock}
	}
}

func parentPID() int { return os.Getppid() }

// exitStatus is -1 when a signal ended the process.
func exitStatus(state *os.ProcessState) int { return state.ExitCode() }

// maxSocketPath is what fits into sockaddr_un.
func maxSocketPath() int { return unixAddrSpace - 1 }

func dialPipe(path string, timeout time.Duration) (net.Conn, error) {
	return dialUnix(path, timeout)
}

var (
	errSocketDir  = errors.New("Extension socket directory missing")      //nolint:staticcheck // osqueryd's text
	errSocketLong = errors.New(" Unix Domain socket path too long")       //nolint:staticcheck // osqueryd's text
	errSocketBusy = errors.New("Cannot remove extension socket")          //nolint:staticcheck // osqueryd's text
	errSocketPerm = errors.New("Cannot write to extension socket folder") //nolint:staticcheck // osqueryd's text
)

// clearSocket removes whatever is at the path, without looking for a listener.
func clearSocket(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%w: %s", errSocketDir, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%w: %s", errSocketPerm, path)
		}
		return fmt.Errorf("%w: %s", errSocketBusy, path)
	}
	return nil
}

// removeStale deletes the sockets of extensions of an earlier run.
func removeStale(path string) {
	stale, _ := filepath.Glob(path + ".*")
	for _, s := range stale {
		_ = os.Remove(s)
	}
}

func listenPipe(path string) (net.Listener, error) {
	if len(path) > maxSocketPath() {
		return nil, errSocketLong
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// The path may belong to a successor when this one closes.
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	return ln, nil
}

func removeSocket(path string) error { return os.Remove(path) }

// lockText is what the database says of a lock that is held elsewhere.
const lockText = "Resource temporarily unavailable"

// tryLock takes an exclusive lock that ends with the last descriptor of the
// open file.
func tryLock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// dialUnix gives up after the timeout.
func dialUnix(path string, timeout time.Duration) (net.Conn, error) {
	return (&net.Dialer{Timeout: timeout}).DialContext(noContext(), "unix", path)
}

// safeBinary: executable, owned by root or by us, not writable by all, and not
// in a directory like /tmp.
func safeBinary(path string) bool {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil || dir.Mode()&os.ModeSticky != 0 {
		return false
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode()&0o111 == 0 || info.Mode()&0o002 != 0 {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return !ok || st.Uid == 0 || int(st.Uid) == os.Getuid()
}
