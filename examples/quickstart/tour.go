package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// tour makes what the scenario needs, plays it, stops everything and looks for what
// is left. What it measured is in the report even when it fails.
func tour(ctx context.Context, s settings, view *screen) (report, error) {
	instances, temporary, forget, err := directories(s.root)
	if err != nil {
		return report{}, err
	}
	osqueryd, err := findOsqueryd(ctx, s.osqueryd, temporary)
	if err != nil {
		return report{}, errors.Join(err, forget())
	}
	rep := report{Osqueryd: osqueryd.name}
	join := view.start()
	view.say("%s", osqueryd.about)
	err = supervise(ctx, s, view, osqueryd.path, instances, &rep)
	err = errors.Join(err, osqueryd.close(), forget())
	join()
	return rep, err
}

// supervise makes a Runner, runs it beside the scenario and stops it.
func supervise(ctx context.Context, s settings, view *screen, binary, root string, rep *report) error {
	srv, seen := &server{}, &processes{}
	runner, err := runtime.New(
		runtime.WithBinary(binary),
		runtime.WithRoot(root),
		runtime.WithTransport(srv.transport()),
		runtime.WithObserver(watch(view, seen)),
		runtime.WithInstanceDefaults(
			// Logs are shipped after half a second, for the eye; in earnest wait longer.
			instance.WithExtension(extension.WithLogBatch(1000, 1<<20, time.Second/2)),
		),
		runtime.WithInstance("vendor"),
		runtime.WithInstance("tenant-a"),
	)
	if err != nil {
		return err // every mistake in the options, at once
	}
	view.setTable(runner.Snapshots, srv.newestLine)

	runCtx, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- runner.Run(runCtx) }()

	sc := &scenario{runner: runner, view: view, seen: seen, rep: rep, length: s.length}
	err = sc.play(ctx)
	if ctx.Err() != nil {
		view.say("interrupted; Ctrl-C again leaves without waiting")
	}
	view.say("stopping all of them")
	stop()
	err = errors.Join(err, <-ran)
	view.sayTable()
	for _, snapshot := range runner.Snapshots() {
		rep.Restarts += snapshot.Totals.Restarts
	}
	count, alive := seen.count()
	rep.Orphans = alive
	view.say("stopped: of the %d processes that were seen, %d are left", count, alive)
	return err
}

// watch tells the reader what happens, and remembers every process. Nothing waits for an
// observer but the instance's other observers and, for a bounded while, the end of a run.
func watch(view *screen, seen *processes) stats.Observer {
	return stats.ObserverFunc(func(_ context.Context, e stats.Event) {
		id := e.Meta().Instance
		switch e := e.(type) {
		case stats.ProcessStarted:
			seen.add(e.PID)
		case stats.RunReady:
			view.say("%-8s  ready after %v: osquery %s, pid %d", id, e.Took.Round(time.Millisecond), e.Version, e.PID)
		case stats.RunEnded:
			view.say("%-8s  ended after %v: %s", id, e.Uptime.Round(time.Millisecond), ending(e))
		case stats.RestartScheduled:
			view.say("%-8s  starts again in %v", id, e.Delay)
		case stats.InstanceParked:
			view.say("%-8s  given up: %v", id, e.Err)
		}
	})
}

func ending(e stats.RunEnded) string {
	if e.Cause == stats.CauseSignal {
		return fmt.Sprintf("%s (%s)", e.Cause, e.Signal)
	}
	return string(e.Cause)
}
