package gameday

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// instances is the size of the set.
const instances = 8

type worldSettings struct {
	osqueryd string // a real one; empty for the fake
	log      *slog.Logger
	rare     int   // cycles of opening and closing
	flood    int64 // bytes of stderr
}

// world is everything that faults are injected into: the runner with its instances,
// the osqueryd, the transport, the observer and the lines that flow.
type world struct {
	set     worldSettings
	log     *slog.Logger
	dir     string // temporary, short
	root    string // of the instances
	binary  string // a copy of our own, to replace and delete
	fake    *osquerydtest.Fake
	ids     []string
	small   string // the instance with a full disk to come; empty when that cannot be
	noSmall string // why not
	unmount func() error

	runner  *runtime.Runner
	journal *journal
	sink    *sink
	tables  *tables
	clocks  *clocks
	lines   *lines // nil with a real osqueryd
	halt    func() error
	closed  bool
}

// newWorld starts the set.
func newWorld(ctx context.Context, set worldSettings) (*world, error) {
	w := &world{
		set: set, log: set.log, journal: newJournal(), tables: &tables{}, clocks: &clocks{},
		unmount: func() error { return nil }, halt: func() error { return nil },
	}
	for i := 1; i <= instances; i++ {
		w.ids = append(w.ids, fmt.Sprintf("i%d", i))
	}
	if err := w.settle(ctx); err != nil {
		return nil, errors.Join(err, w.close().err)
	}
	return w, nil
}

func (w *world) settle(ctx context.Context) error {
	if err := w.makeDirectories(); err != nil {
		return err
	}
	if err := w.installOsqueryd(ctx); err != nil {
		return err
	}
	w.sink = newSink(w.config())
	runner, err := runtime.New(
		runtime.WithBinary(w.binary), runtime.WithRoot(w.root), runtime.WithTransport(w.sink),
		runtime.WithObserver(w.journal), runtime.WithObserver(stats.ObserverFunc(w.journal.trip)),
		runtime.WithInstanceDefaults(w.options()...), runtime.WithRestart(restartPolicy()),
		runtime.WithLogger(w.log), runtime.WithObserver(stats.LogTo(w.log)),
	)
	if err != nil {
		return err
	}
	w.runner = runner
	for _, id := range w.ids {
		if err := w.add(id); err != nil {
			return err
		}
	}
	w.run()
	if w.fake != nil {
		w.lines = startLines(w.fake, w.ids, w.mark)
	}
	return nil
}

// makeDirectories uses short names: sockets live below. The last instance's directory is
// a file system of its own where that can be had.
func (w *world) makeDirectories() error {
	parent := os.TempDir()
	if filepath.Separator == '/' && len(parent) > 30 {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "gday")
	if err != nil {
		return fmt.Errorf("a temporary directory: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return fmt.Errorf("a temporary directory: %w", err)
	}
	w.dir, w.root = dir, filepath.Join(dir, "root")
	last := w.ids[len(w.ids)-1]
	if err := os.MkdirAll(filepath.Join(w.root, last), 0o700); err != nil {
		return fmt.Errorf("a directory for the instances: %w", err)
	}
	unmount, err := mountSmall(filepath.Join(w.root, last))
	if err != nil {
		w.noSmall = err.Error()
		return nil
	}
	w.small, w.unmount = last, unmount
	return nil
}

// installOsqueryd makes an osqueryd that may be replaced and deleted.
func (w *world) installOsqueryd(ctx context.Context) (err error) {
	if w.set.osqueryd == "" {
		w.fake, err = osquerydtest.New(osquerydtest.WithDir(w.dir), osquerydtest.WithCopy(), osquerydtest.WithScript(w.script()))
		if err != nil {
			return fmt.Errorf("the built-in osqueryd: %w", err)
		}
		w.binary = w.fake.Path()
		return nil
	}
	if err := os.Mkdir(filepath.Join(w.dir, "bin"), 0o700); err != nil {
		return fmt.Errorf("a directory for the osqueryd: %w", err)
	}
	w.binary = filepath.Join(w.dir, "bin", "osqueryd")
	return copyBinary(ctx, w.set.osqueryd, w.binary)
}

// run runs the runner until halt.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.runner.Run(ctx) }()
	w.halt = func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			return errors.New("the runner did not stop within a minute")
		}
	}
}

// add takes one of the instances into the set.
func (w *world) add(id string) error {
	return w.runner.Add(id, w.own(id)...)
}

// own are the options of one instance.
func (w *world) own(id string) []instance.Option {
	clock := instance.Internal(func(s *control.Settings) { s.Clock = w.clocks.of(id) })
	return []instance.Option{instance.WithTables(w.tables.of(id)), clock}
}

// mark is what only this instance's processes have in their arguments.
func (w *world) mark(id string) string {
	return string(filepath.Separator) + id + string(filepath.Separator)
}

func (w *world) directory(id string) string { return filepath.Join(w.root, id) }

// end is what is found when all is over.
type end struct {
	orphans []string
	lost    []string
	lines   int
	missing int
	err     error
}

// close waits for the lines, stops everything and looks for what is left. A second close
// finds nothing.
func (w *world) close() end {
	var e end
	if w.closed {
		return e
	}
	w.closed = true
	if w.lines != nil {
		w.awaitLines()
		w.lines.close()
	}
	if err := w.halt(); err != nil {
		e.err = err
	}
	if w.runner != nil {
		w.count(&e)
		e.orphans = w.leftAlive()
		for _, id := range w.runner.IDs() {
			e.err = errors.Join(e.err, w.runner.Remove(context.Background(), id))
		}
	}
	if w.fake != nil {
		e.err = errors.Join(e.err, w.fake.Close())
	}
	e.err = errors.Join(e.err, w.unmount())
	if w.dir != "" {
		e.err = errors.Join(e.err, os.RemoveAll(w.dir))
	}
	return e
}

func logTo(verbose bool, stderr io.Writer) *slog.Logger {
	if !verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// deaf is a transport whose server never takes a log: lines stay queued on disk.
type deaf struct{ *sink }

var errDeaf = errors.New("gameday: the server does not answer")

// PublishLogs fails.
func (deaf) PublishLogs(context.Context, extension.Node, extension.Batch) error { return errDeaf }

// hostMain is another host: it runs one instance, until it is killed. Its arguments are
// the binary, the root and the instance's id.
func hostMain(args []string) error {
	w := &world{set: worldSettings{}}
	opts := append(w.options(), instance.WithTables((&tables{}).of(args[2])))
	runner, err := runtime.New(
		runtime.WithBinary(args[0]), runtime.WithRoot(args[1]), runtime.WithTransport(deaf{newSink("{}")}),
		runtime.WithInstance(args[2], opts...),
	)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- runner.Run(ctx) }()
	if err := runner.WaitReady(ctx, args[2]); err != nil {
		return err
	}
	if err := stayUntilAlone(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed) {
		return err
	}
	cancel()
	return <-done
}

// What the fake spoils an answer by, when a query's text contains it.
const (
	spoilReset    = "gameday_reset"
	spoilRubbish  = "gameday_rubbish"
	spoilTruncate = "gameday_truncate"
	spoilHuge     = "gameday_huge"
)

// hugeAnswer is the size of the largest answer, in bytes.
const hugeAnswer = 50 << 20

// startPatience bounds a start.
const startPatience = 45 * time.Second

// script is a fake that waits a twentieth of what osqueryd does, and spoils certain answers.
func (w *world) script() osquerydtest.Script {
	s := osquerydtest.Script{TimeScale: 0.05}
	for text, do := range map[string]osquerydtest.Kind{
		spoilReset: osquerydtest.Reset, spoilRubbish: osquerydtest.Rubbish,
		spoilTruncate: osquerydtest.Truncate, spoilHuge: osquerydtest.Huge,
	} {
		s = s.WithRule(osquerydtest.Rule{
			Phase: osquerydtest.PhaseQuery, Match: text,
			Action: osquerydtest.Action{Do: do, Bytes: hugeAnswer},
		})
	}
	return s
}

// config makes a real osqueryd log something; the fake does so on command.
func (w *world) config() string {
	if w.set.osqueryd == "" {
		return "{}"
	}
	return `{"schedule": {"gameday": {"query": "select unix_time from time", "interval": 1, "snapshot": true}}}`
}

// timeouts are an instance's when its start is bounded so.
func timeouts(start time.Duration) instance.Timeouts {
	return instance.Timeouts{Start: start, Replace: 45 * time.Second, Register: 5 * time.Second, Stop: 8 * time.Second}
}

// options makes everything quick, so that a game takes a minute and not an hour.
func (w *world) options() []instance.Option {
	opts := []instance.Option{
		instance.WithDistributed(extension.Distributed{Interval: -1}), instance.WithTimeouts(timeouts(startPatience)),
		instance.WithConfig(extension.Config{Refresh: -1, Timeout: 500 * time.Millisecond}),
		instance.WithLogs(extension.Logs{
			BatchLines: 200, BatchBytes: 64 << 10, BatchAge: 50 * time.Millisecond, Sync: extension.SyncNever,
			Delivery: extension.Delivery{
				Timeout: time.Second, FirstWait: 20 * time.Millisecond, LongestWait: 200 * time.Millisecond,
			},
		}),
	}
	if w.fake != nil {
		return append(opts,
			instance.WithHealth(instance.Health{Interval: 250 * time.Millisecond, Timeout: time.Second}))
	}
	return append(opts, instance.WithHealth(instance.Health{Interval: time.Second, Timeout: 2 * time.Second}),
		instance.WithWatchdog(instance.Watchdog{Delay: time.Second}))
}

// restartPolicy never gives up by the number of failures: a game has many.
func restartPolicy() runtime.RestartPolicy {
	soon := runtime.CausePolicy{MinDelay: 100 * time.Millisecond, Unlimited: true}
	return runtime.RestartPolicy{
		Initial: 50 * time.Millisecond, Max: 500 * time.Millisecond, HealthyAfter: time.Second, Budget: -1,
		Causes: map[stats.Cause]runtime.CausePolicy{
			stats.CauseDatabaseLocked: soon, stats.CausePidfileBusy: soon, stats.CauseLeftover: soon,
			stats.CauseCrashLoop: soon, stats.CauseDirectory: soon,
		},
	}
}

// patience bounds one fault, from injection to recovery.
func (w *world) patience() time.Duration {
	if w.fake == nil {
		return 3 * time.Minute
	}
	return 90 * time.Second
}

// tableName is the host's own table, which every instance has.
const tableName = "gameday_table"

// tables are the host's plugins, which panic on command. It is safe for
// concurrent use.
type tables struct {
	mu    sync.Mutex
	shaky map[string]bool
}

func (t *tables) of(id string) extension.Table {
	columns := []table.ColumnDefinition{table.TextColumn("instance")}
	return table.NewPlugin(tableName, columns, func(context.Context, table.QueryContext) ([]map[string]string, error) {
		t.mu.Lock()
		shaky := t.shaky[id]
		t.mu.Unlock()
		if shaky {
			panic("gameday: the host's table panics")
		}
		return []map[string]string{{"instance": id}}, nil
	})
}

func (t *tables) shake(id string, on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shaky == nil {
		t.shaky = map[string]bool{}
	}
	t.shaky[id] = on
}

// clocks are the clocks of the instances: the system's, until one jumps. It is safe for
// concurrent use.
type clocks struct {
	mu    sync.Mutex
	ahead map[string]time.Duration
}

// of returns an instance's clock.
func (c *clocks) of(id string) func() (time.Time, time.Duration) {
	begin := time.Now()
	return func() (time.Time, time.Duration) {
		now := time.Now()
		c.mu.Lock()
		defer c.mu.Unlock()
		return now.Round(0).Add(c.ahead[id]), now.Sub(begin)
	}
}

// jump moves an instance's wall clock, as a sleep of the machine does.
func (c *clocks) jump(id string, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ahead == nil {
		c.ahead = map[string]time.Duration{}
	}
	c.ahead[id] += d
}
