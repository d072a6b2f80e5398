package osquerydtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

// TB is the part of testing.TB that [Start] needs. It keeps the testing
// package out of programs that use a Fake.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Fake is an osqueryd binary in a directory of its own, and the remote control
// of the processes started from it. All methods are safe for concurrent use.
type Fake struct {
	dir  string
	path string
	ln   net.Listener

	grace time.Duration

	mu      sync.Mutex
	live    map[*Process]struct{}
	runs    map[string]int // by identity.key
	started int
	changed chan struct{} // closed and replaced at each change
	closed  bool
	conns   sync.WaitGroup
	accept  chan struct{} // closed when the accept loop ended
}

// Option changes how New makes a Fake.
type Option func(*config)

type config struct {
	script Script
	dir    string
	copied bool
	grace  time.Duration
}

// WithScript gives the fake a script. Without it the fake behaves well, at
// real speed.
func WithScript(s Script) Option { return func(c *config) { c.script = s } }

// WithDir puts the directory of the fake into parent, instead of into
// os.TempDir. Keep it short: a Unix socket lives in it.
func WithDir(parent string) Option { return func(c *config) { c.dir = parent } }

// WithCopy makes the binary a file of its own (a hard link where the file
// system allows it, else a copy), for tests that replace or delete it. The
// default is a symbolic link, except on Windows.
func WithCopy() Option { return func(c *config) { c.copied = true } }

// WithGrace sets how long Close and CheckLeaks wait for processes that are on
// their way out. The default is 5 s.
func WithGrace(d time.Duration) Option { return func(c *config) { c.grace = d } }

// New makes a fake. The calling program must call [Main] first, as the fake is
// that program under another name. Close removes it.
func New(opts ...Option) (*Fake, error) {
	c := config{copied: runtime.GOOS == "windows", grace: 5 * time.Second}
	for _, o := range opts {
		o(&c)
	}
	if err := c.script.Validate(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.dir, "fosq")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the fake osqueryd: %w", err)
	}
	f := &Fake{
		dir: dir, path: filepath.Join(dir, binaryName()), grace: c.grace,
		live: make(map[*Process]struct{}), runs: make(map[string]int),
		changed: make(chan struct{}), accept: make(chan struct{}),
	}
	if err := f.install(c); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	go f.acceptLoop()
	return f, nil
}

// Start makes a fake for a test or benchmark, which fails when the fake cannot
// be made, or when processes of it are left at the end.
func Start(tb TB, opts ...Option) *Fake {
	tb.Helper()
	f, err := New(opts...)
	if err != nil {
		tb.Fatalf("osquerydtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Errorf("osquerydtest: %v", err)
		}
	})
	return f
}

func binaryName() string {
	if runtime.GOOS == "windows" {
		return "osqueryd.exe"
	}
	return "osqueryd"
}

func (f *Fake) install(c config) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program for the fake osqueryd: %w", err)
	}
	if err := installBinary(self, f.path, c.copied); err != nil {
		return fmt.Errorf("install the fake osqueryd: %w", err)
	}
	if err := writeScript(f.dir, c.script); err != nil {
		return err
	}
	f.ln, err = net.Listen("unix", filepath.Join(f.dir, controlName))
	if err != nil {
		return fmt.Errorf("listen for fake processes (give WithDir a shorter path): %w", err)
	}
	return nil
}

// Path is the fake binary, absolute: what a host takes for osqueryd.
func (f *Fake) Path() string { return f.path }

// Dir is the directory of the binary, mode 0700.
func (f *Fake) Dir() string { return f.dir }

// SetScript replaces the script, for processes that start from now on.
func (f *Fake) SetScript(s Script) error {
	if err := s.Validate(); err != nil {
		return err
	}
	return writeScript(f.dir, s)
}

// Close ends the remote control and removes the directory. Processes that are
// still alive after a grace (see WithGrace) are killed and reported as an error. A
// second Close does nothing.
func (f *Fake) Close() error {
	f.mu.Lock()
	again := f.closed
	f.closed = true
	f.mu.Unlock()
	if again {
		return nil
	}
	leaked := f.leaks(f.grace)
	for _, p := range f.Processes() {
		p.forceKill()
	}
	err := f.ln.Close()
	<-f.accept
	f.conns.Wait()
	return errors.Join(leaked, err, os.RemoveAll(f.dir))
}

// CheckLeaks fails the test when processes of the fake are still alive after a
// grace (see WithGrace). They are left alone.
func (f *Fake) CheckLeaks(tb TB) {
	tb.Helper()
	if err := f.leaks(f.grace); err != nil {
		tb.Errorf("osquerydtest: %v", err)
	}
}

func (f *Fake) leaks(grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := f.WaitIdle(ctx); err == nil {
		return f.unseen()
	}
	var errs []error
	for _, p := range f.Processes() {
		errs = append(errs, fmt.Errorf("left over: %s", p))
	}
	return errors.Join(errs...)
}

// unseen looks for processes that never said hello, or whose Fake did not hear
// it.
func (f *Fake) unseen() error {
	var errs []error
	for _, pid := range pidsOf(f.path) {
		errs = append(errs, fmt.Errorf("left over: pid %d runs %s but never reported", pid, f.path))
	}
	return errors.Join(errs...)
}

func (f *Fake) acceptLoop() {
	defer close(f.accept)
	for {
		conn, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.conns.Add(1)
		go f.talk(conn)
	}
}

// talk hears one process until its end, which closes the connection however
// it dies.
func (f *Fake) talk(conn net.Conn) {
	defer f.conns.Done()
	defer func() { _ = conn.Close() }()
	dec := json.NewDecoder(conn)
	var m message
	_ = conn.SetReadDeadline(time.Now().Add(helloTimeout))
	if err := dec.Decode(&m); err != nil || m.Hello == nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	p := f.welcome(conn, *m.Hello)
	defer f.forget(p)
	p.send(&message{Welcome: &p.id})
	for {
		m := new(message)
		if err := dec.Decode(m); err != nil {
			return
		}
		f.hear(p, m)
	}
}
