// Command bench measures this SDK next to plain osquery-go and next to the floor,
// and prints a table. OSQUERYD names the osqueryd to measure on; without it the
// fake is taken. See docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"regexp"

	"github.com/osqvisor/osqvisor/internal/bench"
)

func main() {
	bench.Main()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed means that a target was not met; the table shows which.
var errMissed = errors.New("a target was missed")

func run() (err error) {
	match := flag.String("run", "", "measure only the groups that have a row whose name matches this `regexp`")
	rounds := flag.Int("rounds", 9, "how often each measurement is repeated; medians are shown")
	quick := flag.Bool("quick", false, "small numbers: a check of the harness, not a measurement")
	asJSON := flag.Bool("json", false, "print one JSON object a row")
	strict := flag.Bool("strict", false, "fail when a target is missed")
	dir := flag.String("dir", "", "measure in this `directory` in place of memory, or of the disk of the temporary directory")
	flag.Parse()
	re, err := regexp.Compile(*match)
	if err != nil {
		return err
	}
	env, err := bench.NewEnv(os.Getenv("OSQUERYD"), *dir, *quick)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	if *quick {
		*rounds = 1
	}
	plan := bench.Plan{Match: re, Rounds: *rounds, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	results, err := measure(ctx, env, plan, *asJSON)
	if !*asJSON {
		err = errors.Join(err, bench.WriteTable(os.Stdout, results))
	}
	if *strict && missed(results) {
		err = errors.Join(err, errMissed)
	}
	return err
}

func measure(ctx context.Context, env *bench.Env, plan bench.Plan, asJSON bool) (results []bench.Result, err error) {
	var writeErr error
	err = bench.Run(ctx, env, plan, func(r bench.Result) {
		results = append(results, r)
		if asJSON {
			writeErr = errors.Join(writeErr, bench.WriteJSON(os.Stdout, r))
		}
	})
	return results, errors.Join(err, writeErr)
}

func missed(results []bench.Result) bool {
	for _, r := range results {
		if !r.OK {
			return true
		}
	}
	return false
}
