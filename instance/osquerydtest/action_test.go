package osquerydtest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func TestActionsAtStart(t *testing.T) {
	ctx := testContext(t)
	before := osquerydtest.PhaseBeforeSocket
	script := ruled(before, osquerydtest.Action{Do: osquerydtest.NoSocket}).
		WithRule(osquerydtest.Rule{Phase: before, Action: osquerydtest.Action{Do: osquerydtest.FloodStderr, Bytes: 200_000}}).
		WithRule(osquerydtest.Rule{Phase: before, Action: osquerydtest.Action{Do: osquerydtest.GrowMemory, Bytes: 1 << 20}}).
		WithRule(osquerydtest.Rule{Phase: before, Action: osquerydtest.Action{Do: osquerydtest.Say, Text: "said by a rule"}})
	fake := osquerydtest.Start(t, osquerydtest.WithScript(script))
	dir := root(t)
	writeConf(t, dir, "{}")
	r := start(t, fake, dir)
	w := r.ready(ctx)
	r.wantStderr("said by a rule")
	if n := len(r.stderr.String()); n < 200_000 {
		t.Errorf("%d bytes on stderr, want a flood of 200000", n)
	}
	if _, err := os.Stat(filepath.Join(dir, "em")); !os.IsNotExist(err) {
		t.Errorf("there is a socket: %v", err)
	}
	for _, kind := range []osquerydtest.Kind{osquerydtest.Rubbish, "nonsense"} {
		if err := w.Do(ctx, osquerydtest.Action{Do: kind}); err == nil {
			t.Errorf("%s by command: no error", kind)
		}
	}
}

func TestStatusLinesAreRelayed(t *testing.T) {
	ctx := testContext(t)
	fake := osquerydtest.Start(t)
	dir, h := root(t), newHost(t)
	h.statuses = make(chan string, 1000)
	r := start(t, fake, dir, hostFlags()...)
	h.connect(dir)
	if err := r.ready(ctx).EmitStatus(ctx, "a status line"); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case s := <-h.statuses:
			if strings.Contains(s, `"m":"a status line"`) && strings.Contains(s, `"s":0`) {
				return
			}
		case <-ctx.Done():
			t.Fatal("the status line never came")
		}
	}
}
