package stats_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/osqvisor/osqvisor/stats"
)

func ExampleLogTo() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, nil))
	obs := stats.LogTo(logger)
	obs.Observe(context.Background(), stats.HealthFailed{
		Head:   stats.Head{Instance: "tenant-7", Run: "run-1"},
		Err:    errors.New("ping: timeout"),
		InARow: 2,
	})
	// Output: level=WARN msg="health failed" instance=tenant-7 run=run-1 error="ping: timeout" in_a_row=2
}

func ExampleSummarize() {
	sum := stats.Summarize([]stats.Snapshot{
		{Instance: "vendor", State: stats.StateReady},
		{Instance: "tenant-7", State: stats.StateParked, LastError: "binary missing"},
	})
	out, err := json.Marshal(sum.States)
	fmt.Println(string(out), err)
	fmt.Println(sum.Err())
	// Output:
	// {"parked":1,"ready":1} <nil>
	// 1 of 2 instances not healthy: tenant-7 (parked: binary missing)
}

func ExampleMulti() {
	show := stats.ObserverFunc(func(_ context.Context, e stats.Event) {
		switch e := e.(type) {
		case stats.LogsDropped:
			fmt.Println("lost", e.Lines, "lines:", e.Reason)
		default: // new events come with new versions
		}
	})
	obs := stats.Multi(stats.LogTo(slog.New(slog.DiscardHandler)), show)
	obs.Observe(context.Background(), stats.LogsDropped{Lines: 3, Reason: "queue full"})
	// Output: lost 3 lines: queue full
}
