// Command scale brings up many fake osqueryds in one host, adds and removes some
// every second, and prints what that takes and whether it grows in line with their
// number. See docs/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/osqvisor/osqvisor/internal/bench"
)

func main() {
	bench.Main()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var plan bench.ScalePlan
	flag.IntVar(&plan.Instances, "n", 500, "how many instances")
	flag.IntVar(&plan.Rate, "rate", 50, "how many are added, and as many removed, a second")
	flag.DurationVar(&plan.Churn, "churn", time.Minute, "for how long")
	flag.DurationVar(&plan.Watch, "watch", 20*time.Second, "how long the CPU of the idle host is sampled")
	dir := flag.String("dir", "", "measure in this `directory` in place of memory, or of the disk of the temporary directory")
	flag.Parse()
	env, err := bench.NewEnv("", *dir, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Close()) }()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	return bench.Scale(ctx, env, plan, os.Stdout)
}
