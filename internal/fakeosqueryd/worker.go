package fakeosqueryd

import (
	"sync"
	"sync/atomic"
	"time"
)

// worker is the process that does the work: the child of a watcher, or the
// only one.
type worker struct {
	p     *Process
	count counters

	db       *database
	registry *registry
	server   *server
	sql      *engine
	config   *configState
	logs     *logPlugins
	sched    *scheduler
	dist     *distributed

	hogMu sync.Mutex
	hog   [][]byte

	services sync.WaitGroup
}

func newWorker(p *Process) *worker {
	p.log.keep = true
	w := &worker{p: p}
	w.registry = newRegistry(w)
	w.server = newServer(w)
	w.sql = newEngine(w)
	w.config = newConfigState(w)
	w.logs = newLogPlugins(w)
	w.sched = newScheduler(w)
	w.dist = newDistributed(w)
	return w
}

func (w *worker) run() int {
	p := w.p
	single := p.id.Role == RoleSingle
	if single && !w.checking() {
		p.phase(PhaseBeforePidfile)
		pid, ok := takePidfile(p)
		if !ok {
			return 1
		}
		defer pid.release(p)
		p.phase(PhaseAfterPidfile)
	}
	if !single {
		w.spawnService(w.watchWatcher)
	}
	stopAlarm := w.alarm()
	defer stopAlarm()
	w.start()
	if !p.stopping() {
		p.phase(PhaseReady)
		w.serve()
	}
	select {
	case <-p.stop:
	case <-p.dead:
	}
	p.phase(PhaseStop)
	w.shutdown()
	return p.exitCode()
}

// checking: --config_check and --config_dump print and leave.
func (w *worker) checking() bool {
	return w.p.flags.bool("config_check") || w.p.flags.bool("config_dump")
}

// start brings everything up in osqueryd's order, and stops early when a step
// asked for the end.
func (w *worker) start() {
	for _, step := range []func(){
		w.openDatabase, w.openSocket, w.activateConfig, w.loadConfig, w.activateLogger, w.activateDistributed,
	} {
		if w.p.stopping() {
			return
		}
		step()
	}
}

func (w *worker) openDatabase() {
	p := w.p
	p.phase(PhaseBeforeDatabase)
	db, err := openDatabase(p)
	if err != nil {
		p.fail(w.failureCode(), "%s", err)
		return
	}
	w.db = db
	w.sched.restore()
	p.phase(PhaseAfterDatabase)
}

// failureCode is what a failed start of the database exits with.
func (w *worker) failureCode() int {
	if w.p.id.Role == RoleWorker {
		return exitCatastrophic
	}
	return 1
}

// openSocket starts the extension manager and waits for the required
// extensions. A failure is logged, and the start goes on.
func (w *worker) openSocket() {
	p := w.p
	if w.checking() || p.flags.bool("disable_extensions") {
		p.log.debug("init.cpp:706", "An error occurred during extension manager startup: Extensions disabled")
		return
	}
	p.phase(PhaseBeforeSocket)
	if err := w.server.open(); err != nil {
		p.log.error("init.cpp:709", "An error occurred during extension manager startup: %s", err)
		return
	}
	w.spawnService(w.registry.watch)
	p.phase(PhaseAfterSocket)
	if p.flags.str("extensions_require") == "" {
		return
	}
	p.phase(PhaseRequire)
	if err := w.registry.waitRequired(); err != nil {
		p.log.warn("extensions.cpp:842", "%s", err)
		p.log.error("init.cpp:709", "An error occurred during extension manager startup: %s", err)
	}
}

// activate makes a plugin the active one, or ends the process with 78.
func (w *worker) activate(registry, name string) {
	if err := w.registry.activate(registry, name); err != nil {
		w.p.fail(exitCatastrophic, "Cannot activate %s %s plugin: %s", name, registry, err)
	}
}

func (w *worker) activateConfig() {
	w.p.phase(PhaseConfig)
	w.activate("config", w.p.flags.str("config_plugin"))
}

func (w *worker) activateLogger() {
	if w.p.flags.bool("disable_logging") {
		w.p.log.forget()
		return
	}
	w.p.phase(PhaseLogger)
	w.activate("logger", w.p.flags.str("logger_plugin"))
	if !w.p.stopping() {
		w.logs.init()
	}
}

func (w *worker) activateDistributed() {
	if !w.p.flags.bool("disable_distributed") {
		w.activate("distributed", w.p.flags.str("distributed_plugin"))
	}
}

// serve starts what runs until the end.
func (w *worker) serve() {
	w.spawnService(w.config.refreshLoop)
	w.spawnService(w.sched.loop)
	if !w.p.flags.bool("disable_distributed") {
		w.spawnService(w.dist.loop)
	}
}

func (w *worker) spawnService(f func()) {
	w.services.Add(1)
	go func() {
		defer w.services.Done()
		f()
	}()
}

// watchWatcher ends an orphan.
func (w *worker) watchWatcher() {
	for w.p.sleep(w.p.conf.watcherPoll()) {
		if parentPID() != w.p.id.Watcher {
			w.p.log.debug("watcher.cpp:851", "osqueryd worker (%d) detected killed watcher (%d)", w.p.id.PID, w.p.id.Watcher)
			w.p.requestStop(0)
			return
		}
	}
}

// alarm ends a process that is still busy alarm_timeout after it was asked to
// stop.
func (w *worker) alarm() (cancel func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-w.p.stop:
		case <-done:
			return
		}
		t := time.NewTimer(w.p.conf.deadline(w.p.flags.seconds("alarm_timeout")))
		defer t.Stop()
		select {
		case <-t.C:
			w.p.die(w.p, exitCatastrophic, 0)
		case <-done:
		case <-w.p.dead:
		}
	}()
	return func() { close(done); <-ended }
}

// shutdown lets calls in flight end and asks the extensions to leave.
func (w *worker) shutdown() {
	var wait sync.WaitGroup
	wait.Go(w.registry.shutdownExtensions)
	wait.Go(w.server.stop)
	wait.Wait()
	w.services.Wait()
	if w.server.listening() {
		removeStale(w.server.path) // not while anybody may still call on them
	}
	w.db.close()
}

// grow allocates and touches memory, and keeps it.
func (w *worker) grow(n int64) {
	if n <= 0 {
		return
	}
	block := make([]byte, n)
	for i := 0; i < len(block); i += 4096 {
		block[i] = 1
	}
	w.hogMu.Lock()
	defer w.hogMu.Unlock()
	w.hog = append(w.hog, block)
}

// Stats is what a worker counts.
type Stats struct {
	Connections       int64 // open now
	ConnectionsTotal  int64 // ever accepted
	Pings             int64 // received
	Calls             int64 // registry calls received
	Queries           int64 // received
	MaxQueries        int64 // most at the same time
	SecondDatabases   int64 // queries that found the database busy
	Registrations     int64 // accepted
	Refusals          int64 // registrations refused
	Deregistrations   int64 //
	Checks            int64 // periodic pings that an extension answered
	GoneAway          int64 // extensions dropped after a failed ping
	ExtensionCalls    int64 // made to extensions
	ExtensionFailures int64 // of those
	Scheduled         int64 // scheduled queries run
	ResultLines       int64 // given to the logger
	DistributedReads  int64 //
	DistributedWrites int64 //
	Refreshes         int64 // config asked for
}

// counters are the live Stats.
type counters struct {
	conns, connsTotal, pings, calls, queries, maxQueries, running, second  atomic.Int64
	registered, refused, deregistered, checks, gone, extCalls, extFailures atomic.Int64
	scheduled, lines, reads, writes, refreshes                             atomic.Int64
}

func (c *counters) snapshot() *Stats {
	return &Stats{
		Connections: c.conns.Load(), ConnectionsTotal: c.connsTotal.Load(), Pings: c.pings.Load(), Calls: c.calls.Load(),
		Queries: c.queries.Load(), MaxQueries: c.maxQueries.Load(), SecondDatabases: c.second.Load(),
		Registrations: c.registered.Load(), Refusals: c.refused.Load(), Deregistrations: c.deregistered.Load(),
		Checks: c.checks.Load(), GoneAway: c.gone.Load(), ExtensionCalls: c.extCalls.Load(), ExtensionFailures: c.extFailures.Load(),
		Scheduled: c.scheduled.Load(), ResultLines: c.lines.Load(), DistributedReads: c.reads.Load(),
		DistributedWrites: c.writes.Load(), Refreshes: c.refreshes.Load(),
	}
}

// queryStarts counts a query in and remembers the most at once.
func (c *counters) queryStarts() (ends func()) {
	c.queries.Add(1)
	n := c.running.Add(1)
	for {
		most := c.maxQueries.Load()
		if n <= most || c.maxQueries.CompareAndSwap(most, n) {
			return func() { c.running.Add(-1) }
		}
	}
}
