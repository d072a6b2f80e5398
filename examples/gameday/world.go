package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
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
		runtime.WithInstanceDefaults(w.options()...), runtime.WithRestart(restartPolicy()), runtime.WithLogger(w.log),
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
	return w.runner.Add(id, instance.WithTables(w.tables.of(id)), instance.WithClock(w.clocks.of(id)))
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
