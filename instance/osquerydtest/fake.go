package osquerydtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// TB is the part of testing.TB that [Start] needs.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Fake is a fake osqueryd binary and controls the processes started from it. Its methods are
// safe for concurrent use.
type Fake struct {
	dir  string
	path string
	ln   net.Listener

	grace time.Duration

	mu      sync.Mutex
	live    map[*Process]struct{}
	runs    map[string]int // by Identity.Key
	started int
	changed chan struct{} // closed and replaced at each change
	closed  bool
	conns   sync.WaitGroup
	accept  chan struct{} // closed when the accept loop ended
}

// Option configures a [Fake].
type Option func(*config)

type config struct {
	script Script
	dir    string
	copied bool
	grace  time.Duration
}

// WithScript sets the script; default: none.
func WithScript(s Script) Option { return func(c *config) { c.script = s } }

// WithDir sets the parent of the fake's directory; default os.TempDir. It should be short.
func WithDir(parent string) Option { return func(c *config) { c.dir = parent } }

// WithCopy makes the binary a file of its own, to be replaced or deleted. Default: a symbolic
// link, except on Windows.
func WithCopy() Option { return func(c *config) { c.copied = true } }

// WithGrace sets how long Close and CheckLeaks wait for processes to end; default 5 s.
func WithGrace(d time.Duration) Option { return func(c *config) { c.grace = d } }

// New returns a new fake, in a program that calls [Main] first.
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

// Start returns a new fake for a test, and closes it at the end. The test fails if processes of
// the fake are left.
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

// Path returns the absolute path of the binary.
func (f *Fake) Path() string { return f.path }

// SetScript replaces the script for processes that start from now on.
func (f *Fake) SetScript(s Script) error {
	if err := s.Validate(); err != nil {
		return err
	}
	return writeScript(f.dir, s)
}

// Close removes the fake. Processes that are left are killed and reported as an error.
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

// CheckLeaks fails the test if processes of the fake are left.
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
		return f.waitUnseen(ctx)
	}
	var errs []error
	for _, p := range f.Processes() {
		errs = append(errs, fmt.Errorf("left over: %s", p))
	}
	return errors.Join(errs...)
}

// waitUnseen waits until ctx ends for processes that never connect to the Fake, such as one
// that is asked for its version.
func (f *Fake) waitUnseen(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f.unseen()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// unseen looks for processes that never connected to the Fake.
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

// welcome numbers a new process and remembers it.
func (f *Fake) welcome(conn net.Conn, id fakeosqueryd.Identity) *Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started++
	p := &Process{
		fake: f, conn: conn, enc: json.NewEncoder(conn), order: f.started,
		done: make(chan struct{}), pending: make(map[int]chan *message),
	}
	id.Run, id.Worker = 1, 1
	if w := f.watcherOf(id); w != nil {
		w.workers++
		id.Run, id.Worker = w.id.Run, w.workers
	} else {
		f.runs[id.Key()]++
		id.Run = f.runs[id.Key()]
	}
	p.id = id
	f.live[p] = struct{}{}
	f.touch()
	return p
}

func (f *Fake) watcherOf(id fakeosqueryd.Identity) *Process {
	if id.Role != fakeosqueryd.RoleWorker {
		return nil
	}
	for p := range f.live {
		if p.id.PID == id.Watcher && p.id.Role == fakeosqueryd.RoleWatcher {
			return p
		}
	}
	return nil
}

func (f *Fake) hear(p *Process, m *message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m.Phase != "" {
		p.reached = append(p.reached, m.Phase)
		if !m.Reached {
			p.phases = append(p.phases, m.Phase)
		}
		f.touch()
	}
	if ch := p.pending[m.ID]; ch != nil {
		delete(p.pending, m.ID)
		ch <- m
	}
}

func (f *Fake) forget(p *Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.live, p)
	close(p.done)
	f.touch()
}

// touch wakes those who wait for a change. Call it under mu.
func (f *Fake) touch() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Processes returns the live processes in the order of their start.
func (f *Fake) Processes() []*Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sorted()
}

func (f *Fake) sorted() []*Process {
	out := make([]*Process, 0, len(f.live))
	for p := range f.live {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *Process) int { return a.order - b.order })
	return out
}

// Started returns how many processes have started.
func (f *Fake) Started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started
}

// WaitProcess waits for a live process for which want returns true, and returns the newest.
// want must not block.
func (f *Fake) WaitProcess(ctx context.Context, want func(*Process) bool) (*Process, error) {
	for {
		f.mu.Lock()
		changed, live := f.changed, f.sorted()
		f.mu.Unlock()
		for _, p := range slices.Backward(live) {
			if want(p) {
				return p, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("no such fake process among %d: %w", len(live), ctx.Err())
		}
	}
}

// WaitWorker waits for a ready worker with an argument that contains instance, and returns the
// newest.
func (f *Fake) WaitWorker(ctx context.Context, instance string) (*Process, error) {
	p, err := f.WaitProcess(ctx, func(p *Process) bool {
		return p.Role() != RoleWatcher && p.Passed(PhaseReady) && containsArg(p.id.Args, instance)
	})
	if err != nil {
		return nil, fmt.Errorf("wait for a ready worker of %q: %w", instance, err)
	}
	return p, nil
}

// WaitIdle waits until no process of the fake is left.
func (f *Fake) WaitIdle(ctx context.Context) error {
	for {
		f.mu.Lock()
		changed, n := f.changed, len(f.live)
		f.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d fake processes are still alive: %w", n, ctx.Err())
		}
	}
}

// installBinary puts this program at path: by a symbolic link, unless it is to be copied, as on Windows, where links need a
// privilege.
func installBinary(self, path string, copied bool) error {
	if !copied {
		return os.Symlink(self, path)
	}
	return linkOrCopy(self, path)
}

// linkOrCopy makes path a file of its own. A hard link is preferred: test
// binaries are large.
func linkOrCopy(self, path string) error {
	if os.Link(self, path) == nil {
		return nil
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// pidsOf finds the processes whose argv[0] is path. Without /proc it finds none: the control connections alone tell who is alive.
func pidsOf(path string) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, d := range dirs {
		argv, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil {
			continue
		}
		argv0, _, _ := bytes.Cut(argv, []byte{0})
		if string(argv0) == path {
			pid, _ := strconv.Atoi(filepath.Base(d))
			pids = append(pids, pid)
		}
	}
	return pids
}
