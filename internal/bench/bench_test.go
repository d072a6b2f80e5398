package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// Benchmark takes the samples of every group, on the osqueryd that OSQUERYD names or
// on the fake, and reports their medians; with -short, small and few of them.
func Benchmark(b *testing.B) {
	env, err := NewEnv(os.Getenv("OSQUERYD"), "", testing.Short())
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := env.Close(); err != nil {
			b.Error(err)
		}
	}()
	for _, g := range Groups(env) {
		if g.Slow && env.Quick {
			continue
		}
		b.Run(strings.ReplaceAll(g.Name, " ", "_"), func(b *testing.B) { benchGroup(b, env, g) })
	}
}

func benchGroup(b *testing.B, env *Env, g Group) {
	b.Helper()
	vs := make([]values, len(g.Rows))
	for b.Loop() {
		round, err := measure(b.Context(), env, g, 1)
		if err != nil {
			b.Fatal(err)
		}
		for i := range round {
			for who := range round[i] {
				vs[i][who] = append(vs[i][who], round[i][who]...)
			}
		}
	}
	report(b, g, vs)
}

func report(b *testing.B, g Group, vs []values) {
	b.Helper()
	b.ReportMetric(0, "ns/op") // set-up included, it says nothing
	for i, row := range g.Rows {
		for who, name := range map[Who]string{Ours: "ours", Plain: "plain", Floor: "floor", Other: "other"} {
			if x := known(vs[i].of(who)); x != nil {
				unit := strings.NewReplacer(" ", "", "/", "-per-", "%", "percent").Replace(row.Unit)
				b.ReportMetric(*x, fmt.Sprintf("row%d-%s-%s", i+1, name, unit))
			}
		}
	}
}

func quickEnv(t *testing.T) *Env {
	t.Helper()
	env, err := NewEnv("", "", true)
	if err != nil {
		t.Skip(err) // a system on which there is nothing to measure
	}
	t.Cleanup(func() {
		if err := env.Close(); err != nil {
			t.Error(err)
		}
	})
	return env
}

// TestSmoke is about the harness: every row it measures has numbers. How large they
// are is no matter for a test.
func TestSmoke(t *testing.T) {
	env := quickEnv(t) // no leak check: osquery-go's server leaves a goroutine behind for ever
	plan := Plan{
		Match:  regexp.MustCompile(`ready, 1$|bad start|without grace|select 1|durable|shipping|line, observed`),
		Rounds: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	seen := map[string]Result{}
	if err := Run(t.Context(), env, plan, func(r Result) { seen[r.Work] = r }); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"start to ready, 1", "bad start to report", "stop without grace", "select 1", "durable log lines, 1 writer", "shipping",
	} {
		r, ok := seen[want]
		switch {
		case !ok:
			t.Errorf("%q was not measured", want)
		case r.Ours == nil || *r.Ours <= 0:
			t.Errorf("%q: ours is %s", want, shown(r.Ours))
		case want != "shipping" && (r.Floor == nil || *r.Floor <= 0):
			t.Errorf("%q: the floor is %s", want, shown(r.Floor))
		case r.Target == "":
			t.Errorf("%q has no target", want)
		}
	}
	if n := zombies(); n != 0 {
		t.Errorf("the harness left %d zombies", n)
	}
	if n := seen["zombies of a bad start"].Ours; n == nil || *n != 0 {
		t.Errorf("%s zombies are left", shown(n))
	}
}

func TestScaleSmoke(t *testing.T) {
	testhelp.CheckLeaks(t)
	env := quickEnv(t)
	var out strings.Builder
	plan := ScalePlan{Instances: 5, Rate: 5, Churn: 1, Watch: 1}
	if err := Scale(t.Context(), env, plan, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| 5 |", "| goroutines | ", "added and removed 1 each", "+0 goroutines"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
	if err := Scale(t.Context(), env, ScalePlan{Instances: 4}, &out); err == nil {
		t.Error("too few instances for a line were taken")
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	env := quickEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	plan := Plan{Match: regexp.MustCompile("line, observed"), Rounds: 1, Logger: slog.New(slog.DiscardHandler)}
	if err := Run(ctx, env, plan, func(Result) { t.Error("a result came") }); err == nil {
		t.Error("an ended context is no error")
	}
}
