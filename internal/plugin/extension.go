// Package plugin is what osqueryd talks to: a config, a logger and a distributed plugin and the host's
// tables, over the host's [extension.Transport].
package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
	"golang.org/x/sync/errgroup"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// Extension is what osqueryd sees of one instance: a config, a logger and a
// distributed plugin and the host's tables, over a [Transport]. It has no
// connection of its own; whoever owns it registers what Registry returns and passes
// it the calls. All methods are safe for concurrent use.
type Extension struct {
	set     *Settings
	events  *guard.Announcer
	tasks   *guard.Tasks
	life    *lifetime
	client  *client
	tables  *tableSet
	configs *configs
	loggers *loggers
	dist    *distributed

	shippers []*delivery.Shipper
	drops    *delivery.Drops
	wakeup   chan struct{}
	running  atomic.Bool
	setting  sync.Mutex // held by SetLogs
	closing  sync.Once
	closeErr error

	mu        sync.Mutex
	activated map[string]bool // plugins that osqueryd called since the last registration
}

// New makes an extension and opens its queues, unless Settings.DeferredQueues is set. The error
// joins everything that is wrong with the settings, or is why the directory cannot be used. The
// caller has to Close it.
func New(settings Settings) (*Extension, error) {
	s, errs := settings.complete()
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the instance's directory: %w", err)
	}
	e := assemble(s)
	if err := e.openQueues(); err != nil {
		return nil, errors.Join(err, e.CloseQueues())
	}
	return e, nil
}

// assemble makes everything but the queues.
func assemble(s *Settings) *Extension {
	e := &Extension{
		set: s, tasks: &guard.Tasks{}, life: newLifetime(), tables: newTableSet(s.Tables), drops: &delivery.Drops{},
		wakeup: make(chan struct{}, 1), activated: map[string]bool{},
	}
	e.events = &guard.Announcer{Emit: s.Emit, Head: s.Head, Warn: s.Logger.Warn}
	e.client = newClient(s, e.tasks, e.events)
	e.client.identity.life, e.client.identity.wake = e.life, e.wake
	f := &fetcher{set: s, client: e.client, events: e.events, policy: guard.NewSlot()}
	e.configs = newConfigs(s, f, e.tasks, e.life, e.events, e.wake)
	e.client.identity.enrolled = e.configs.enrolled
	e.dist = &distributed{set: s, client: e.client, events: e.events, discovering: guard.NewSlot()}
	return e
}

// wake makes the dispatcher look again.
func (e *Extension) wake() {
	select {
	case e.wakeup <- struct{}{}:
	default:
	}
}

// openQueues opens the four queues and makes their shippers.
func (e *Extension) openQueues() error {
	form := &delivery.StatusForm{}
	for _, name := range []extension.Queue{extension.QueueResults, extension.QueueSnapshots, extension.QueueStatus} {
		kind := callLogs + " " + string(name)
		set := e.shipSettings(name, callLogs)
		set.Form = form.Learn
		if name == extension.QueueStatus {
			set.Form = form.Shape
		}
		set.Send = func(ctx context.Context, b extension.Batch) error { return e.publish(ctx, kind, b) }
		set.Elsewhere = func() time.Time { return e.client.calls.elsewhere(kind) }
		if err := e.open(set); err != nil {
			return err
		}
	}
	set := e.shipSettings(delivery.QueueDistributed, callResults)
	set.Results = &delivery.Results{Send: e.dist.deliver, Gone: e.dist.underWay.gone, Came: e.dist.underWay.add}
	if err := e.open(set); err != nil {
		return err
	}
	e.dist.results = e.shippers[3]
	e.loggers = newLoggers(e.shippers[0], e.shippers[1], e.shippers[2], e.set.Counters, e.set.Logs.RawEvents)
	return nil
}

func (e *Extension) shipSettings(name extension.Queue, call string) delivery.Settings {
	return delivery.Settings{
		Name: name, Call: call, Dir: e.set.Dir, Logs: e.set.Logs, Deferred: e.set.DeferredQueues, Discard: e.set.silent,
		Budget: e.set.Budget, Node: e.set.callNode, Announcer: e.events, Counters: e.set.Counters, Drops: e.drops, Wake: e.wake,
		Tasks: e.tasks,
	}
}

func (e *Extension) open(set delivery.Settings) error {
	s, err := delivery.Open(set)
	if err == nil {
		e.shippers = append(e.shippers, s)
	}
	return err
}

// publish hands a batch to the transport.
func (e *Extension) publish(ctx context.Context, kind string, b extension.Batch) error {
	_, err := invoke(ctx, e.client, kind, func(ctx context.Context, n extension.Node) (struct{}, error) {
		return struct{}{}, e.set.Transport.PublishLogs(ctx, n, b)
	})
	return err
}

// Name is the name of the extension and of its three plugins.
func (e *Extension) Name() string { return e.set.Name }

// ParkTable leaves a table out of the next registration, because osqueryd has one
// of that name. SetTables brings it back.
func (e *Extension) ParkTable(name string) { e.tables.park(name) }

// SetTables replaces the host's tables, from the next registration on. The error
// joins everything that is wrong with them; then nothing changes.
func (e *Extension) SetTables(tables ...extension.Table) error {
	if err := errors.Join(checkTables(tables)...); err != nil {
		return err
	}
	e.tables.set(tables)
	return nil
}

// SetLogs replaces the settings of logs and of calls, as Settings.Logs, from the next batch and the
// next call on; waits that have begun are not cut short. A batch under way keeps its lines and gets
// the new signature. QueueBytes, LineLimit, WhenFull, Sync and RawEvents stay as they were. The
// error joins everything that is wrong; then nothing changes.
func (e *Extension) SetLogs(l extension.Logs) error {
	var m mistakes
	s := Settings{Logs: l}
	s.completeLogs(&m)
	s.checkSigner(&m)
	s.completeDelivery(&m)
	if len(m) > 0 {
		return errors.Join(m...)
	}
	e.setting.Lock()
	defer e.setting.Unlock()
	old := e.set.logs.Swap(&s.Logs)
	for _, one := range e.shippers {
		one.SetLogs(s.Logs)
	}
	if !delivery.SameWaits(old.Delivery, s.Logs.Delivery) {
		e.client.identity.setWaits(s.Logs.Delivery)
		e.configs.setWaits(s.Logs.Delivery)
	}
	return nil
}

// FetchConfig calls the source for the config now: fetched, parsed, through the
// policy. changed reports whether osqueryd has another one. It fails with [ErrConfigSetAside]
// when the source still has what was set aside. Hand it to osqueryd by its update call, one call a source, and
// then call ConfigDelivered. The wait ends with ctx; the fetch then goes on, and
// is bounded by the transport's timeout.
func (e *Extension) FetchConfig(ctx context.Context) (config map[string]string, changed bool, err error) {
	return e.configs.fetchNow(ctx)
}

// PendingConfig returns the newest config that the source had, if osqueryd has another one.
// Whoever pushes configs calls it before each push and after it, until nothing is
// pending, one push at a time: a newer one may have come meanwhile, by osqueryd's own call too.
func (e *Extension) PendingConfig() (config map[string]string, pending bool) {
	return e.configs.pending()
}

// ConfigDelivered means that osqueryd accepted a config from FetchConfig, PendingConfig or the
// [Settings.LateConfig] hook.
func (e *Extension) ConfigDelivered(config map[string]string) { e.configs.delivered(config) }

// OsquerydGone means that the osqueryd, or the worker, that was registered is no more. died
// means that it ended by itself, and in a way that its config may be to blame for; see
// Probation of [extension.Config].
func (e *Extension) OsquerydGone(died bool) { e.configs.gone(died) }

// Shutdown is osqueryd's own shutdown call. It is only noted: when to stop is
// decided by whoever owns the extension.
func (e *Extension) Shutdown() { e.set.Logger.Debug("osqueryd called shutdown") }

// Ping answers osqueryd's ping.
func (e *Extension) Ping() osquery.ExtensionStatus {
	return osquery.ExtensionStatus{Code: 0, Message: "OK"}
}

// Pending counts, by queue, what waits to be taken by the transport: lines of
// logs, and under "distributed" writes of results.
func (e *Extension) Pending() map[string]uint64 {
	out := make(map[string]uint64, len(e.shippers))
	for _, s := range e.shippers {
		out[string(s.Set.Name)] = s.Pending()
	}
	return out
}

// Delivery returns what waits in each queue and how the last deliveries went, and how the
// server answered the other calls: "enroll", "config" and "queries". A config counts as
// answered when it passed all checks. It never waits.
func (e *Extension) Delivery() ([]stats.QueueState, []stats.CallState) {
	queues := make([]stats.QueueState, 0, len(e.shippers))
	for _, s := range e.shippers {
		kind := callLogs + " " + string(s.Set.Name)
		if s == e.dist.results {
			kind = callResults
		}
		queues = append(queues, s.State(e.client.calls.state(kind)))
	}
	return queues, []stats.CallState{
		{Call: callEnroll, Delivery: e.client.calls.state(callEnroll)},
		{Call: callConfig, Delivery: e.client.calls.state(configInForce)},
		{Call: callQueries, Delivery: e.client.calls.state(callQueries)},
	}
}

// Close ends what is under way and closes the queues. It waits a bounded time for
// calls of the host's code, and fails when one did not return. Run must have
// returned. Later calls do nothing.
func (e *Extension) Close() error {
	e.closing.Do(func() {
		e.life.renew(true)
		ctx, cancel := context.WithTimeout(context.Background(), 2*guard.ReturnGrace)
		defer cancel()
		var err error
		if !e.tasks.Wait(ctx) {
			err = fmt.Errorf("close the extension: a call of the host's code: %w", guard.ErrNotReturned)
		}
		e.drops.Announce(e.events)
		e.closeErr = errors.Join(err, e.CloseQueues())
	})
	return e.closeErr
}

// runGrace bounds how long Run waits, after its drain, for code of the host.
const runGrace = 2 * time.Second

// ErrRunning means that Run was called while it was under way.
var ErrRunning = errors.New("the extension is running already")

// Run delivers what is queued until ctx ends, and then goes on for at most the
// drain time (Settings.Drain) with what is still there. It returns when every
// goroutine that the extension made is gone, and nil when that went well; the
// error reports code of the host that did not return. It may be called again
// after it returned. While nothing is queued it has one goroutine, its own.
func (e *Extension) Run(ctx context.Context) error {
	if !e.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer e.running.Store(false)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	d := &dispatcher{jobs: e.jobs(), wake: e.wakeup, drops: e.drops, events: e.events}
	d.run(ctx, work)

	drain, cancel := context.WithTimeout(work, e.set.Drain)
	defer cancel()
	if err := e.Flush(drain); err != nil {
		e.set.Logger.Debug("what is left stays queued", "error", err)
	}
	stop()
	e.life.renew(false)
	grace, cancelGrace := context.WithTimeout(context.WithoutCancel(ctx), runGrace)
	defer cancelGrace()
	if joined := d.join(grace); !joined || !e.tasks.Wait(grace) {
		return fmt.Errorf("a call of the host's code: %w", guard.ErrNotReturned)
	}
	e.drops.Announce(e.events)
	return nil
}

// jobs are what the dispatcher does.
func (e *Extension) jobs() []job {
	out := []job{e.client.identity.job(), e.configs.job(), e.configs.probationJob()}
	for _, s := range e.shippers {
		out = append(out, job{due: s.Due, do: func(ctx context.Context) { _ = s.DeliverOne(ctx) }})
	}
	return out
}

// Flush delivers everything that is queued, without waiting for more to fill a
// batch. It returns when nothing is left, when each queue either is empty or had
// a failure, or when ctx ends; the error joins the failures. What was not
// delivered stays queued. It may be called while Run is under way, or without it.
func (e *Extension) Flush(ctx context.Context) error {
	var g errgroup.Group
	errs := make([]error, len(e.shippers))
	for i, s := range e.shippers {
		g.Go(func() error {
			if err := s.DeliverAll(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", s.Set.Name, err)
			}
			return nil
		})
	}
	_ = g.Wait()
	return errors.Join(errs...)
}

// The registries of osqueryd that the extension has plugins for.
const (
	registryConfig      = "config"
	registryLogger      = "logger"
	registryDistributed = "distributed"
	registryTable       = "table"
)

// Registry returns what to register: the three plugins and every table that is not
// parked. It also puts the tables in force, and from then on a failing source
// is covered by the last good config, as for an osqueryd that has none. Call it
// once for each registration of the plugins.
func (e *Extension) Registry() osquery.ExtensionRegistry {
	active, routes := e.openTables()
	e.tables.activate(active)
	e.configs.registered()
	e.mu.Lock()
	e.activated = map[string]bool{}
	e.mu.Unlock()
	plugin := func() osquery.ExtensionRouteTable {
		return osquery.ExtensionRouteTable{e.set.Name: osquery.ExtensionPluginResponse{}}
	}
	return osquery.ExtensionRegistry{
		registryConfig: plugin(), registryLogger: plugin(), registryDistributed: plugin(), registryTable: routes,
	}
}

// TableRegistry returns the tables alone, for a registration of their own, and puts them in
// force; nil when there are none. It does not touch what osqueryd has of the config.
func (e *Extension) TableRegistry() osquery.ExtensionRegistry {
	active, routes := e.openTables()
	e.tables.activate(active)
	if len(routes) == 0 {
		return nil
	}
	return osquery.ExtensionRegistry{registryTable: routes}
}

// HasTables reports whether there are tables to register. It changes nothing.
func (e *Extension) HasTables() bool {
	active, _ := e.openTables()
	return len(active) > 0
}

// openTables returns every table that is not parked, and how it is registered.
func (e *Extension) openTables() (map[string]extension.Table, osquery.ExtensionRouteTable) {
	active, routes := map[string]extension.Table{}, osquery.ExtensionRouteTable{}
	for _, t := range e.tables.candidates() {
		name, columns, ok := e.describe(t)
		if !ok || e.tables.isParked(name) {
			continue
		}
		active[name], routes[name] = t, columns
	}
	return active, routes
}

// describe returns a table's name and columns; one that panics or has none is
// left out.
func (e *Extension) describe(t extension.Table) (name string, columns osquery.ExtensionPluginResponse, ok bool) {
	err := e.events.Contain("table", func() error {
		name = t.Name()
		columns = t.Routes()
		return nil
	})
	return name, columns, err == nil && len(columns) > 0
}

// Call answers a call of osqueryd. It is bounded: a config by the config timeout,
// queries by the answer timeout, a log line by one write to the disk, a table by
// the table timeout. A panic in code of the host is answered
// with status 1 and announced.
func (e *Extension) Call(ctx context.Context, registry, item string, req map[string]string) osquery.ExtensionResponse {
	switch registry {
	case registryConfig, registryLogger, registryDistributed:
		if item != e.set.Name {
			return failure("Unknown registry item: " + item)
		}
	case registryTable:
		return e.callTable(ctx, item, req)
	default:
		return failure("Unknown registry: " + registry)
	}
	switch registry {
	case registryConfig:
		e.activate(registryConfig, req["action"] == "genConfig")
		return e.configs.call(ctx, req)
	case registryDistributed:
		e.activate(registryDistributed, req["action"] == "getQueries")
		return e.dist.call(ctx, req)
	default:
		if _, init := req["init"]; init {
			e.activate(registryLogger, true)
		}
		return e.loggers.call(req)
	}
}

func (e *Extension) callTable(ctx context.Context, name string, req map[string]string) osquery.ExtensionResponse {
	t, ok := e.tables.find(name)
	if !ok {
		return failure("Unknown registry item: " + name)
	}
	ctx, cancel := context.WithTimeout(ctx, e.set.TableTimeout)
	defer cancel()
	r, err := guard.Bounded(ctx, e.tasks, t.busy, "table "+name, func(ctx context.Context) (osquery.ExtensionResponse, error) {
		return t.Call(ctx, req), nil
	})
	e.events.AnnouncePanic(err)
	if err != nil {
		return failure(err.Error())
	}
	if r.Status == nil {
		r.Status = &osquery.ExtensionStatus{Code: 0, Message: "OK"}
	}
	return r
}

// activate reports to the host that osqueryd called a plugin, the first time after
// a registration.
func (e *Extension) activate(what string, asked bool) {
	if !asked {
		return
	}
	e.mu.Lock()
	first := !e.activated[what]
	e.activated[what] = true
	e.mu.Unlock()
	if !first {
		return
	}
	if e.set.Activated == nil {
		return
	}
	_ = e.events.Contain("activation hook", func() error {
		e.set.Activated(what)
		return nil
	})
}

// OpenQueues opens the queues that are not open. The error names the one that cannot be;
// then none is open. It must not be called while Run, Flush or CloseQueues is under way.
func (e *Extension) OpenQueues() error {
	err := e.eachQueue((*delivery.Shipper).OpenStore)
	if err != nil {
		return errors.Join(err, e.CloseQueues())
	}
	return nil
}

// AdoptQueues brings along the queues of the extension's former directory dir: call it before OpenQueues, when nobody else
// uses dir. What cannot be moved is announced by a stats.QueueLeft, stays where it is, and is in the error; the same call may
// be made again.
func (e *Extension) AdoptQueues(ctx context.Context, dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, "queue")); errors.Is(err, fs.ErrNotExist) || dir == e.set.Dir {
		return nil
	}
	return e.eachQueue(func(s *delivery.Shipper) error { return s.Adopt(ctx, dir) })
}

// CloseQueues closes the queues until the next OpenQueues. Lines that come meanwhile
// are lost, and counted so; Pending goes on telling what was left. It must not be
// called while Run or Flush is under way. Later calls do nothing.
func (e *Extension) CloseQueues() error {
	return e.eachQueue((*delivery.Shipper).CloseStore)
}

// eachQueue does something with all queues at the same time: each waits for the
// disk, and a run can neither start nor end before the last.
func (e *Extension) eachQueue(do func(*delivery.Shipper) error) error {
	errs := make([]error, len(e.shippers))
	var wait sync.WaitGroup
	for i, s := range e.shippers {
		wait.Go(func() { errs[i] = do(s) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

// success is an answer that osqueryd takes as good.
func success(row map[string]string) osquery.ExtensionResponse {
	r := osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 0, Message: "OK"}}
	if row != nil {
		r.Response = osquery.ExtensionPluginResponse{row}
	}
	return r
}

// failure is an answer with status 1.
func failure(message string) osquery.ExtensionResponse {
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: message}}
}
