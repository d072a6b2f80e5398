package extension

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/spool"
	"github.com/osqvisor/osqvisor/stats"
)

// Extension is what osqueryd sees of one instance: a config, a logger and a
// distributed plugin and the host's tables, over a [Transport]. It has no
// connection of its own; whoever owns it registers what Registry gives and hands
// it the calls. All methods are safe for concurrent use.
type Extension struct {
	set     *settings
	say     *announcer
	tasks   *tasks
	life    *lifetime
	client  *client
	tables  *tableSet
	configs *configs
	loggers *loggers
	dist    *distributed

	shippers []*shipper
	drops    *drops
	wakeup   chan struct{}
	running  atomic.Bool
	closing  sync.Once
	closeErr error

	mu        sync.Mutex
	activated map[string]bool // what osqueryd asked for since the last registration
}

// New makes an extension and opens its queues, unless [WithDeferredQueues] is
// given. The error joins everything that is wrong with the options, or says why
// the directory cannot be used. The caller has to Close it.
func New(opts ...Option) (*Extension, error) {
	s, err := settle(opts)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("extension.WithDir: %w", err)
	}
	if s.keys == nil {
		s.keys = newFileKeyStore(s.dir)
	}
	e := assemble(s)
	if err := e.openQueues(); err != nil {
		return nil, errors.Join(err, e.CloseQueues())
	}
	for _, q := range e.shippers {
		q.discarding.Store(s.silent)
	}
	return e, nil
}

// Check says what is wrong with the options, as New does, and makes nothing.
func Check(opts ...Option) error {
	_, err := settle(opts)
	return err
}

// settle applies the options and checks them.
func settle(opts []Option) (*settings, error) {
	s := defaults()
	for _, o := range opts {
		if o != nil {
			o.apply(s)
		}
	}
	s.silent = isNil(s.transport)
	s.log.settle(s)
	err := s.check()
	return s, err
}

// assemble makes everything but the queues.
func assemble(s *settings) *Extension {
	e := &Extension{
		set: s, tasks: &tasks{}, life: newLifetime(), tables: newTableSet(s.tables), drops: &drops{},
		wakeup: make(chan struct{}, 1), activated: map[string]bool{},
	}
	e.say = &announcer{emit: s.emit, head: s.head, warn: s.logger.Warn}
	e.client = newClient(s, e.tasks, e.say)
	e.client.identity.life, e.client.identity.wake = e.life, e.wake
	f := &fetcher{set: s, client: e.client, say: e.say, policy: newSlot()}
	e.configs = newConfigs(s, f, e.tasks, e.life, e.say, e.wake)
	e.client.identity.enrolled = e.configs.enrolled
	e.dist = &distributed{set: s, client: e.client, say: e.say, asking: newSlot()}
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
	form := &statusForm{}
	for _, name := range []Queue{QueueResults, QueueSnapshots, QueueStatus} {
		kind := callLogs + " " + string(name)
		set := e.shipSettings()
		set.form = form.learn
		if name == QueueStatus {
			set.form = form.shape
		}
		s, err := e.openShipper(name, callLogs, set, func(ctx context.Context, b Batch) error {
			return e.publish(ctx, kind, b)
		})
		if err != nil {
			return err
		}
		s.says.shipped = shipped(e.say, e.set.counters)
		s.notes = doubtPath(e.set.dir, name)
		s.elsewhere = func() time.Time { return e.client.calls.elsewhere(kind) }
	}
	set := distributedSettings(e.shipSettings(), e.set.transportTimeout)
	set.lineBytes = maxDistributed(e.set.log.queueBytes)
	s, err := e.openShipper(queueDistributed, callResults, set, nil)
	if err != nil {
		return err
	}
	e.dist.results = s
	s.live = newLive(s, e.set.dir)
	s.live.send, s.live.gone, s.live.came = e.dist.deliver, e.dist.underWay.gone, e.dist.underWay.add
	s.live.restore()
	e.loggers = newLoggers(e.shippers[0], e.shippers[1], e.shippers[2], e.set.counters, e.set.rawEvents)
	return nil
}

func (e *Extension) shipSettings() shipSettings {
	l := e.set.log
	return shipSettings{
		lines: l.lines, bytes: l.bytes, age: l.age, lineBytes: l.lineBytes, backfill: l.backfill,
		timeout: e.set.transportTimeout, first: l.minBackoff, longest: l.maxBackoff, signer: e.set.signer,
		node: e.set.askNode, delivery: e.set.delivery,
	}
}

func (e *Extension) openShipper(name Queue, call string, set shipSettings, send func(context.Context, Batch) error) (*shipper, error) {
	known := &damages{}
	lost := func(l spool.Loss) {
		known.noted(l)
		e.lost(name, l)
	}
	q := &lazyQueue{
		fresh: func() bool { return e.set.deferred && neverQueued(e.set.dir, name) },
		open: func() (queue, error) {
			q, found, err := openQueue(e.set.dir, name, spoolOptions(e.set.log, set.lineBytes, lost))
			if err == nil {
				e.recovered(name, found, known)
			}
			return q, err
		},
	}
	if !e.set.deferred {
		if err := q.reopen(); err != nil {
			return nil, err
		}
	}
	s := newShipper(name, call, q, set, send)
	s.drops, s.wake, s.tasks = e.drops, e.wake, e.tasks
	s.says = &shipVoice{announcer: e.say, counters: e.set.counters, shipped: func(Batch) {}}
	if e.set.log.deadBytes > 0 {
		s.dead = newDeadLetters(e.set.dir, name, e.set.log.deadBytes)
	}
	e.shippers = append(e.shippers, s)
	return s, nil
}

// recovered tells of what the opening of a queue found.
func (e *Extension) recovered(name Queue, found spool.Recovery, known *damages) {
	if known.unheard(found) {
		e.drops.tell(func(h stats.Head) stats.Event {
			return stats.QueueDamaged{
				Head: h, Queue: string(name), Bytes: found.CutBytes + found.DamagedBytes,
				Missing: found.Missing, CursorLost: found.CursorLost,
			}
		})
		e.wake()
	}
	e.lost(name, spool.Loss{Reason: spool.Damaged, Records: known.news(found)})
}

// lost notes lines that a queue lost after they were stored.
func (e *Extension) lost(name Queue, l spool.Loss) {
	if l.Records == 0 {
		return
	}
	bytes := uint64(max(0, l.Bytes))
	e.drops.add(name, l.Reason.String(), l.Records, bytes)
	e.set.counters.Dropped(l.Records, bytes)
	e.wake()
}

// publish hands a batch to the transport.
func (e *Extension) publish(ctx context.Context, kind string, b Batch) error {
	_, err := invoke(ctx, e.client, kind, func(ctx context.Context, n Node) (struct{}, error) {
		return struct{}{}, e.set.transport.PublishLogs(ctx, n, b)
	})
	return err
}

// Name is the name of the extension and of its three plugins.
func (e *Extension) Name() string { return e.set.name }

// ParkTable leaves a table out of the next registration, because osqueryd has one
// of that name. SetTables brings it back.
func (e *Extension) ParkTable(name string) { e.tables.park(name) }

// SetTables replaces the host's tables, from the next registration on. The error
// joins everything that is wrong with them; then nothing changes.
func (e *Extension) SetTables(tables ...Table) error {
	if err := errors.Join(checkTables("SetTables", tables)...); err != nil {
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
func (e *Extension) Shutdown() { e.set.logger.Debug("osqueryd called shutdown") }

// Ping answers osqueryd's ping.
func (e *Extension) Ping() osquery.ExtensionStatus {
	return osquery.ExtensionStatus{Code: 0, Message: "OK"}
}

// Pending counts, by queue, what waits to be taken by the transport: lines of
// logs, and under "distributed" writes of results.
func (e *Extension) Pending() map[string]uint64 {
	out := make(map[string]uint64, len(e.shippers))
	for _, s := range e.shippers {
		out[string(s.name)] = s.pending()
	}
	return out
}

// Delivery gives what waits in each queue and how the last deliveries went, and how the
// server answered the other calls: "enroll", "config" and "queries". A config counts as
// answered when it passed all checks. It never waits.
func (e *Extension) Delivery() ([]stats.QueueState, []stats.CallState) {
	queues := make([]stats.QueueState, 0, len(e.shippers))
	for _, s := range e.shippers {
		kind := callLogs + " " + string(s.name)
		if s.live != nil {
			kind = callResults
		}
		queues = append(queues, s.state(e.client.calls.state(kind)))
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
		ctx, cancel := context.WithTimeout(context.Background(), 2*returnGrace)
		defer cancel()
		var err error
		if !e.tasks.wait(ctx) {
			err = fmt.Errorf("close the extension: a call of the host's code: %w", errNotReturned)
		}
		e.drops.announce(e.say)
		e.closeErr = errors.Join(err, e.CloseQueues())
	})
	return e.closeErr
}

// maxDistributed bounds one write of distributed results that is kept on disk.
func maxDistributed(queueBytes int64) int { return int(min(32<<20, queueBytes/4)) }

// runGrace bounds how long Run waits, after its drain, for code of the host.
const runGrace = 2 * time.Second
