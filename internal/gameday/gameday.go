// Package gameday is the engine of examples/gameday: it breaks osqueryd, its files, its
// socket and its host in every way we know of, and checks whether osqvisor survives.
package gameday

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"time"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

// settings are the values of the flags.
type settings struct {
	osqueryd string // path of a real one; empty for the fake
	random   time.Duration
	seed     uint64
	json     bool
	only     string
	verbose  bool
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("gameday", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.osqueryd, "osqueryd", "", "a real osqueryd to run (default: the built-in fake)")
	flags.DurationVar(&s.random, "for", time.Minute, "how long to inject faults at random, after each was injected once")
	flags.Uint64Var(&s.seed, "seed", 1, "the seed of all random choices")
	flags.BoolVar(&s.json, "json", false, "end with one line of JSON on stdout; everything else goes to stderr")
	flags.StringVar(&s.only, "only", "", "inject only faults whose names contain this text")
	flags.BoolVar(&s.verbose, "v", false, "log what the instances do to stderr")
	if err := flags.Parse(args); err != nil {
		return s, fmt.Errorf("flags: %w", err)
	}
	var err error
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q; see -help", flags.Arg(0))
	case s.random < 0:
		err = fmt.Errorf("-for %v is negative; give a time such as 60s", s.random)
	case s.osqueryd != "":
		s.osqueryd, err = filepath.Abs(s.osqueryd)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return s, err
}

// Main runs a game day with the command line args, and returns the exit code of the
// program: 0 when everything held, 1 when it did not, 2 for wrong flags.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return exitUsage
	}
	out := stdout
	if s.json {
		out = stderr // stdout is for programs then
	}
	rep, err := gameday(ctx, s, out, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "gameday:", err)
		rep.fail(err)
	}
	rep.conclude()
	if s.json {
		err = rep.writeJSON(stdout)
	} else {
		err = rep.writeText(stdout)
	}
	if !rep.OK || err != nil {
		return exitFailed
	}
	return 0
}

// gameday injects every fault once, and then at random.
func gameday(ctx context.Context, s settings, out, stderr io.Writer) (*report, error) {
	rep := newReport(out)
	goroutines := countGoroutines()
	w, err := newWorld(ctx, worldSettings{osqueryd: s.osqueryd, log: logTo(s.verbose, stderr), rare: 200, flood: 100 << 20})
	if err != nil {
		return rep, err
	}
	err = play(ctx, w, s, rep)
	rep.takeEnd(w.close())
	rep.GoroutinesLeaked = goroutines.leaked()
	return rep, err
}

// play is the list and then the dice.
func play(ctx context.Context, w *world, s settings, rep *report) error {
	faults := selectFaults(w, s.only, rep)
	if len(faults) == 0 {
		return fmt.Errorf("no fault is left to inject: none has %q in its name (-only), or it is left out, as said below", s.only)
	}
	dice := rand.New(rand.NewPCG(s.seed, 0)) //nolint:gosec // a run is to be repeatable
	if err := w.waitCalm(ctx); err != nil {
		return err
	}
	for _, f := range faults {
		if err := ctx.Err(); err != nil {
			return err
		}
		rep.add(w.drill(ctx, f, w.pick(dice, f)))
	}
	faults = w.repeatable(faults)
	if s.random == 0 || len(faults) == 0 {
		return nil
	}
	rep.say("at random for %v, seed %d", s.random, s.seed)
	w.set.rare, w.set.flood = 12, 10<<20 // what takes long comes often now
	for end := time.Now().Add(s.random); time.Now().Before(end) && ctx.Err() == nil; {
		f := faults[dice.IntN(len(faults))]
		rep.add(w.drill(ctx, f, w.pick(dice, f)))
	}
	return ctx.Err()
}

// selectFaults reports which faults are left out.
func selectFaults(w *world, only string, rep *report) []fault {
	var out []fault
	for _, f := range catalogue() {
		if !f.named(only) {
			continue
		}
		if why := w.leavesOut(f); why != "" {
			rep.leaveOut(f.name, why)
			continue
		}
		out = append(out, f)
	}
	return out
}
