package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"

	// A host has no need of this package: it checks from outside of the SDK's own
	// bookkeeping that no process is left.
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// stepTimeout bounds each step: a real osqueryd on a busy machine needs some seconds.
const stepTimeout = 90 * time.Second

// When the steps are taken, as parts of -for. A step that the one before holds up
// follows it at once.
const (
	atJoin   = 0.15
	atKill   = 0.35
	atRemove = 0.70
)

// config makes every instance log one row of the table time each second.
const config = `{"schedule": {"clock": {"query": "select hour, minutes, seconds from time", "interval": 1, "snapshot": true}}}`

// tour is the host in this program: it owns a Runner and does with it what a host does.
type tour struct {
	runner *runtime.Runner
	tell   *teller
	rep    report
	length time.Duration
	begin  time.Time

	mu     sync.Mutex
	seen   map[process.Identity]struct{}
	newest string // log line
}

// takeTour makes what the tour needs, takes it, stops everything and checks what is left.
// What it measured is in the report even when it fails.
func takeTour(ctx context.Context, s settings, tell *teller) (rep report, err error) {
	t := &tour{tell: tell, length: s.length, seen: map[process.Identity]struct{}{}}
	osqueryd, err := osquerydtest.Find(ctx, s.osqueryd)
	if ctx.Err() != nil {
		err = errors.Join(errInterrupted, err)
	}
	if err != nil {
		return t.rep, err
	}
	defer func() { err = errors.Join(err, osqueryd.Close()) }()
	t.rep.Osqueryd = osqueryd.Name()
	tell.line("%s", osqueryd.From)
	if s.root == "" {
		if s.root, err = os.MkdirTemp("", "osqv"); err != nil {
			return t.rep, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(s.root)) }()
	}
	if s.root, err = filepath.Abs(s.root); err != nil {
		return t.rep, err
	}
	err = t.supervise(ctx, osqueryd.Path, s.root)
	return t.rep, err
}

// supervise makes a Runner, runs it beside the steps and stops it.
func (t *tour) supervise(ctx context.Context, binary, root string) (err error) {
	t.runner, err = runtime.New(
		runtime.WithBinary(binary),
		runtime.WithRoot(root),
		// A host with more to do implements extension.Transport; see examples/customtransport.
		runtime.WithTransport(extension.Funcs{ConfigFunc: serveConfig, LogsFunc: t.takeLogs}),
		runtime.WithObserver(stats.ObserverFunc(t.observe)),
		runtime.WithInstance("vendor"),
		runtime.WithInstance("tenant-a"),
	)
	if err != nil {
		return err // every mistake in the options, at once
	}
	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- t.runner.Run(runCtx) }()

	err = t.play(ctx)
	if ctx.Err() != nil {
		t.tell.line("interrupted; Ctrl-C again leaves without waiting")
	}
	t.tell.line("stopping all of them")
	stop()
	err = errors.Join(err, <-ran) // nothing is left when Run has returned
	t.table()
	for _, snapshot := range t.runner.Snapshots() {
		t.rep.Restarts += snapshot.Totals.Restarts
	}
	count, alive := t.count()
	t.rep.Orphans = alive
	t.tell.line("stopped: of the %d processes that were seen, %d are left", count, alive)
	return err
}

// play takes the steps one after the other, and waits until -for is over.
func (t *tour) play(ctx context.Context) error {
	t.begin = time.Now()
	late := time.AfterFunc(t.length, func() {
		t.tell.line("-for %v is shorter than the tour, which is finished first", t.length)
	})
	defer late.Stop()
	if err := t.steps(ctx); err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
	if late.Stop() {
		t.tell.line("the tour is over; stopping at %v, or at Ctrl-C", t.length)
	}
	_ = t.pause(ctx, 1) // Ctrl-C is as good an end as any
	return nil
}

func (t *tour) steps(ctx context.Context) error {
	vendor, err := t.meet(ctx, "vendor")
	if err != nil {
		return err
	}
	tenantA, err := t.meet(ctx, "tenant-a")
	if err != nil {
		return err
	}
	if err := t.pause(ctx, atJoin); err != nil {
		return err
	}
	t.tell.line("tenant-b  is added while the others run")
	if err := t.runner.Add("tenant-b"); err != nil {
		return err
	}
	tenantB, err := t.meet(ctx, "tenant-b")
	if err != nil {
		return err
	}
	t.table()
	if err := t.pause(ctx, atKill); err != nil {
		return err
	}
	if err := t.kill(ctx, tenantA); err != nil {
		return err
	}
	if err := t.pause(ctx, atRemove); err != nil {
		return err
	}
	t.table()
	if err := t.compare(ctx, vendor, tenantB); err != nil {
		return err
	}
	return t.remove(ctx, "tenant-b")
}

// life distinguishes one life of an instance from another: nothing of it stays the same
// when its osqueryd is started again.
type life struct {
	id      string
	run     string
	watcher int // the process that we started
	worker  int // the process that the watcher started, which answers queries
}

// meet waits until a new instance is ready, and queries it.
func (t *tour) meet(ctx context.Context, id string) (life, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := t.runner.WaitReady(ctx, id); err != nil {
		return life{}, err
	}
	l, err := t.query(ctx, id)
	if err != nil {
		return life{}, err
	}
	t.rep.Instances++
	t.tell.line("%-8s  answers: watcher is pid %d, worker pid %d", id, l.watcher, l.worker)
	return l, nil
}

// query queries an instance's osqueryd for its version and its worker's pid.
func (t *tour) query(ctx context.Context, id string) (life, error) {
	rows, err := t.runner.Query(ctx, id, "select pid, version from osquery_info")
	if err != nil {
		return life{}, err
	}
	infos, err := instance.CollectRows[struct {
		Pid     int
		Version string
	}](rows)
	if err != nil || len(infos) != 1 {
		return life{}, fmt.Errorf("%s: osquery_info has %d rows: %w", id, len(infos), err)
	}
	t.rep.Queries++
	t.rep.Version = infos[0].Version
	t.remember(infos[0].Pid)
	snapshot, err := t.runner.Snapshot(id)
	if err != nil {
		return life{}, err
	}
	if snapshot.Run == nil {
		return life{}, fmt.Errorf("%s: %w", id, instance.ErrNotRunning)
	}
	return life{id: id, run: snapshot.Run.ID, watcher: snapshot.Run.PID, worker: infos[0].Pid}, nil
}

// kill ends an instance's osqueryd as if it had crashed, and measures how long it
// takes until a query is answered again.
func (t *tour) kill(ctx context.Context, old life) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	watcher, err := os.FindProcess(old.watcher)
	if err != nil {
		return fmt.Errorf("kill %s: %w", old.id, err)
	}
	t.tell.line("%-8s  is killed: SIGKILL to pid %d", old.id, old.watcher)
	killed := time.Now()
	if err := watcher.Kill(); err != nil {
		return fmt.Errorf("kill %s: %w", old.id, err)
	}
	in, err := t.runner.Instance(old.id)
	if err == nil {
		err = in.WaitRunOver(ctx, old.run)
	}
	if err == nil {
		err = t.runner.WaitReady(ctx, old.id)
	}
	if err == nil {
		_, err = t.query(ctx, old.id)
	}
	if err != nil {
		return fmt.Errorf("%s did not recover: %w", old.id, err)
	}
	recovery := time.Since(killed)
	t.rep.RecoveryMS = recovery.Milliseconds()
	snapshot, err := t.runner.Snapshot(old.id)
	if err != nil || len(snapshot.History) == 0 {
		return errors.Join(err, fmt.Errorf("%s: the run that was killed is not in its history", old.id))
	}
	t.tell.line("%-8s  answers again %v after it was killed; the cause was: %s",
		old.id, recovery.Round(time.Millisecond), snapshot.History[0].Cause)
	return nil
}

// compare checks that instances still live the life that they had.
func (t *tour) compare(ctx context.Context, before ...life) error {
	t.rep.Untouched = true
	for _, was := range before {
		is, err := t.query(ctx, was.id)
		if err != nil {
			return err
		}
		if is != was {
			t.rep.Untouched = false
			t.tell.line("%-8s  was touched: %+v became %+v", was.id, was, is)
			continue
		}
		t.tell.line("%-8s  did not notice: still pids %d and %d", is.id, is.watcher, is.worker)
	}
	return nil
}

// remove takes an instance out of the set. What it counted goes with it.
func (t *tour) remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	snapshot, err := t.runner.Snapshot(id)
	if err != nil {
		return err
	}
	t.tell.line("%-8s  is removed", id)
	if err := t.runner.Remove(ctx, id); err != nil {
		return err
	}
	t.rep.Restarts += snapshot.Totals.Restarts // the Runner counts those that stay
	if _, err := t.runner.Snapshot(id); !errors.Is(err, runtime.ErrNotFound) {
		return fmt.Errorf("%s was removed and is still there: %w", id, err)
	}
	return nil
}

// pause waits until a part of -for is over.
func (t *tour) pause(ctx context.Context, part float64) error {
	timer := time.NewTimer(time.Until(t.begin.Add(time.Duration(part * float64(t.length)))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func serveConfig(context.Context, extension.Node) (map[string]string, error) {
	return map[string]string{"quickstart": config}, nil
}

// takeLogs is called with batches of lines, in order, until it returns nil for each.
func (t *tour) takeLogs(_ context.Context, node extension.Node, batch extension.Batch) error {
	if batch.Queue == extension.QueueStatus {
		return nil // osqueryd's own log
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.newest = fmt.Sprintf("newest log line, of %s: %s", node.Instance, batch.Lines[len(batch.Lines)-1])
	return nil
}

// observe is called with what happens to the instances.
func (t *tour) observe(_ context.Context, e stats.Event) {
	id := e.Meta().Instance
	switch e := e.(type) {
	case stats.ProcessStarted:
		t.remember(e.PID)
	case stats.RunReady:
		t.tell.line("%-8s  ready after %v: osquery %s, pid %d", id, e.Elapsed.Round(time.Millisecond), e.Version, e.PID)
	case stats.RunEnded:
		t.tell.line("%-8s  ended after %v: %s", id, e.Uptime.Round(time.Millisecond), e.Cause)
	case stats.RestartScheduled:
		t.tell.line("%-8s  starts again in %v", id, e.Delay)
	}
}

// table shows how the instances are.
func (t *tour) table() {
	var b strings.Builder
	_ = stats.WriteTable(&b, t.runner.Snapshots(), time.Now()) // a Builder does not fail
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tell.line("how they are:\n%s%s", b.String(), t.newest)
}

// remember notes a process. One that has gone meanwhile needs no noting.
func (t *tour) remember(pid int) {
	id, err := process.Identify(pid)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seen[id] = struct{}{}
}

// count returns how many processes were seen, and how many of them still run.
func (t *tour) count() (seen, alive int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range t.seen {
		if id.Alive() {
			alive++
		}
	}
	return len(t.seen), alive
}

// teller writes lines from many goroutines, each with the time that has passed.
type teller struct {
	begin time.Time
	mu    sync.Mutex
	out   io.Writer
}

func newTeller(out io.Writer) *teller { return &teller{begin: time.Now(), out: out} }

func (t *teller) line(format string, args ...any) {
	text := strings.ReplaceAll(strings.TrimRight(fmt.Sprintf(format, args...), "\n"), "\n", "\n        ")
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "%5.1fs  %s\n", time.Since(t.begin).Seconds(), text)
}
