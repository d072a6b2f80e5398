package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// Extension is what osqueryd sees of one instance: a config, a logger and a
// distributed plugin and the host's tables, over a [Transport]. It has no
// connection of its own; whoever owns it registers what Registry gives and hands
// it the calls. All methods are safe for concurrent use.
type Extension struct {
	set     *Settings
	say     *guard.Announcer
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
	closing  sync.Once
	closeErr error

	mu        sync.Mutex
	activated map[string]bool // what osqueryd asked for since the last registration
}

// New makes an extension and opens its queues, unless Settings.DeferredQueues is set. The error
// joins everything that is wrong with the settings, or tells why the directory cannot be used. The
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
	e.say = &guard.Announcer{Emit: s.Emit, Head: s.Head, Warn: s.Logger.Warn}
	e.client = newClient(s, e.tasks, e.say)
	e.client.identity.life, e.client.identity.wake = e.life, e.wake
	f := &fetcher{set: s, client: e.client, say: e.say, policy: guard.NewSlot()}
	e.configs = newConfigs(s, f, e.tasks, e.life, e.say, e.wake)
	e.client.identity.enrolled = e.configs.enrolled
	e.dist = &distributed{set: s, client: e.client, say: e.say, asking: guard.NewSlot()}
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
		Budget: e.set.Budget, Node: e.set.askNode, Announcer: e.say, Counters: e.set.Counters, Drops: e.drops, Wake: e.wake, Tasks: e.tasks,
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

// FetchConfig asks the source for the config now: fetched, parsed, through the
// policy. changed tells whether osqueryd has another one. It fails with [ErrConfigSetAside]
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

// ConfigDelivered says that osqueryd took a config from FetchConfig, PendingConfig or the
// [WithLateConfig] hook.
func (e *Extension) ConfigDelivered(config map[string]string) { e.configs.delivered(config) }

// OsquerydGone says that the osqueryd, or the worker, that was registered is no more. died
// says that it ended by itself, and in a way that its config may be to blame for; see
// [WithConfigProbation].
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

// Delivery gives what waits in each queue and how the last deliveries went, and how the
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
// calls of the host's code, and tells when one did not return. Run must have
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
		e.drops.Announce(e.say)
		e.closeErr = errors.Join(err, e.CloseQueues())
	})
	return e.closeErr
}

// runGrace bounds how long Run waits, after its drain, for code of the host.
const runGrace = 2 * time.Second
