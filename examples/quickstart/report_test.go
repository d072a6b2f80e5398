package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

func TestConcludeNeedsAll(t *testing.T) {
	good := report{Instances: 3, Restarts: 1, Untouched: true, Queries: 1}
	for name, test := range map[string]struct {
		spoil func(*report)
		err   error
		ok    bool
	}{
		"all":          {spoil: func(*report) {}, ok: true},
		"an error":     {spoil: func(*report) {}, err: errors.New("it failed")},
		"interrupted":  {spoil: func(*report) {}, err: errInterrupted},
		"two":          {spoil: func(r *report) { r.Instances = 2 }},
		"no restart":   {spoil: func(r *report) { r.Restarts = 0 }},
		"two restarts": {spoil: func(r *report) { r.Restarts = 2 }},
		"touched":      {spoil: func(r *report) { r.Untouched = false }},
		"no queries":   {spoil: func(r *report) { r.Queries = 0 }},
		"an orphan":    {spoil: func(r *report) { r.Orphans = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			test.spoil(&r)
			r.conclude(test.err)
			if r.OK != test.ok {
				t.Errorf("ok is %t, want %t", r.OK, test.ok)
			}
			if r.interrupted != (name == "interrupted") {
				t.Errorf("interrupted is %t", r.interrupted)
			}
		})
	}
}

func TestProcessesCountsTheLivingAlone(t *testing.T) {
	var p processes
	p.add(os.Getpid())
	// A later process with the pid of one that was seen is not the one that was seen.
	p.seen[process.Identity{PID: os.Getpid(), StartTime: "earlier"}] = struct{}{}
	if seen, alive := p.count(); seen != 2 || alive != 1 {
		t.Errorf("%d seen, %d alive; want 2 and 1", seen, alive)
	}
}

func TestScreenDrawsInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "terminal")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	s := newScreen(file)
	if s.live {
		t.Fatal("a file is taken for a terminal")
	}
	s.live = true
	s.setTable(func() []stats.Snapshot { return []stats.Snapshot{{Instance: "vendor", State: stats.StateReady}} },
		func() string { return strings.Repeat("x", 200) + "\n" })
	s.say("first")
	s.draw()
	s.say("second")
	s.draw()
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, after, found := strings.Cut(string(written), "\x1b[3A\r\x1b[J")
	if !found {
		t.Fatalf("the second drawing does not go up by the three lines of the first:\n%q", written)
	}
	if !strings.Contains(before, "first\nINSTANCE") || !strings.Contains(after, "second\nINSTANCE") || strings.Contains(after, "first") {
		t.Errorf("drawn %q, then %q", before, after)
	}
	if !strings.Contains(after, "\n"+strings.Repeat("x", 79)+"\n") {
		t.Errorf("a line is not cut at the edge: %q", after)
	}
}
