//go:build unix

package process

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// Whoever escapes the group and holds the pipes does not keep Exited open for longer than the grace.
func TestEscapedPipeHolderDoesNotHangExited(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	spec := roleSpec("leaver:escape", heard.hear)
	spec.drainGrace = time.Second
	p := mustStart(t, spec)
	escaped := heard.ready(t, 1)
	if exit := mustExit(t, p); exit.Code != 7 {
		t.Errorf("got %+v, want code 7", exit)
	}
	if !escaped[0].Alive() {
		t.Error("the pipe holder is gone, so it proved nothing")
	}
	if p.groupAlive() {
		t.Error("group has members, want none")
	}
}

func TestFlood(t *testing.T) {
	testhelp.CheckLeaks(t)
	const size = 20_000_000
	heard := newListener()
	spec := roleSpec("flood:20000000", heard.hear)
	var lines int
	spec.Stderr = func([]byte) { lines++ }
	p := mustStart(t, spec)
	exit := mustExit(t, p)
	if exit.Code != 0 || lines != size/1000 || exit.TooMuchOutput {
		t.Errorf("got %+v, %d lines", exit, lines)
	}
	heard <- "end"
	if got := <-heard; got != "flooded" {
		t.Errorf("stdout: got %q, want flooded", got)
	}
}

// With Output there is one pipe and one goroutine less, and both streams come in the order of writing.
func TestOutputTakesBothStreams(t *testing.T) {
	testhelp.CheckLeaks(t)
	var got []string
	spec := roleSpec("both", nil)
	spec.Output = func(line []byte) { got = append(got, string(line)) }
	p := mustStart(t, spec)
	mustExit(t, p)
	want := []string{"out 0", "err 0", "out 1", "err 1", "out 2", "err 2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	spec.Stderr = func([]byte) {}
	if _, err := Start(t.Context(), spec); !errors.Is(err, ErrSpec) {
		t.Errorf("Output and Stderr: got %v, want ErrSpec", err)
	}
}

func TestLines(t *testing.T) {
	testhelp.CheckLeaks(t)
	big, full := strings.Repeat("b", MaxLine), strings.Repeat("f", MaxLine)
	tests := map[string]struct {
		text string
		want []string
	}{
		"plain":      {"a\n\nb\r\nlast", []string{"a", "", "b", "last"}},
		"truncated":  {"BIG\nb", []string{big, "b"}},
		"big at end": {"BIG", []string{big}},
		"exact":      {"FULL\nFULL\r\nFULL", []string{full, full, full}},
		"nothing":    {"", nil},
	}
	for name, tt := range tests {
		var got []string
		p := mustStart(t, roleSpec("lines:"+tt.text, func(line []byte) { got = append(got, string(line)) }))
		mustExit(t, p)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %d lines %.200q", name, len(got), got)
		}
	}
}

func TestEnvironmentIsExactAndStdinEmpty(t *testing.T) {
	testhelp.CheckLeaks(t)
	t.Setenv("OSQUERY_WORKER", "1")
	var got []string
	spec := roleSpec("env", func(line []byte) { got = append(got, string(line)) })
	spec.RunID = "r1"
	spec.Env = append(spec.Env, RunEnv+"=stale", "A=b")
	mustExit(t, mustStart(t, spec))
	want := []string{"stdin 0 EOF", "env " + roleEnv + "=env", "env " + raceEnv, "env A=b", "env " + RunEnv + "=r1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCleanEnv(t *testing.T) {
	base := []string{"OSQUERY_WORKER=1", "PATH=/bin", "OSQUERYX=1", "X=OSQUERY_Y", "OSQUERY_EXTENSION=2"}
	want := []string{"PATH=/bin", "OSQUERYX=1", "X=OSQUERY_Y"}
	if diff := cmp.Diff(want, CleanEnv(base)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A child that writes more than it may is killed with all its group, and no line of the rest is passed on.
func TestTooMuchOutput(t *testing.T) {
	testhelp.CheckLeaks(t)
	lines := 0
	spec := roleSpec("flood:20000000", nil)
	spec.Stderr, spec.MaxOutput = func([]byte) { lines++ }, 1_000_000
	exit := mustExit(t, mustStart(t, spec))
	if !exit.TooMuchOutput || exit.Signal != "SIGKILL" || lines > 1000 {
		t.Errorf("got %+v, %d lines", exit, lines)
	}
}
