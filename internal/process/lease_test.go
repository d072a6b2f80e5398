//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func leaseOf(p *Process) Lease {
	return Lease{Identity: p.Identity(), PGID: p.PID(), Binary: p.spec.Path, RunID: p.RunID()}
}

func mustWriteLease(t *testing.T, lease Lease) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "lease")
	if err := WriteLease(path, lease); err != nil {
		t.Fatal(err)
	}
	return path
}

func assertReclaimed(t *testing.T, path string, want []Identity) {
	t.Helper()
	killed, err := Reclaim(t.Context(), path, ReclaimOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, killed, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("killed (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("lease was not removed: %v", err)
	}
}

func TestLeaseRoundTrip(t *testing.T) {
	self, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	want := Lease{Identity: self, PGID: self.PID, Binary: "/b", RunID: "r", Socket: "/s", Started: time.Now().UTC(), Host: self}
	path := mustWriteLease(t, Lease{Identity: Identity{PID: 7}})
	if err := WriteLease(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := readLease(path)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("got mode %v (%v), want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left files: %v", entries)
	}
	if err := errors.Join(RemoveLease(path), RemoveLease(path)); err != nil {
		t.Error(err)
	}
	if _, err := readLease(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestCorruptLeaseIsUnknownAndHarmsNobody(t *testing.T) {
	whole, err := json.Marshal(Lease{Identity: Identity{PID: 7, StartTime: "s"}, PGID: 7})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty":         "",
		"truncated":     string(whole[:len(whole)-1]),
		"not a lease":   "{}",
		"everybody":     `{"identity":{"pid":-1,"start_time":"s"},"pgid":-1}`,
		"own group":     `{"identity":{"pid":0,"start_time":"s"},"pgid":0}`,
		"init":          `{"identity":{"pid":1,"start_time":"s"},"pgid":1}`,
		"no start time": `{"identity":{"pid":7},"pgid":7}`,
		"other group":   `{"identity":{"pid":7,"start_time":"s"},"pgid":8}`,
		"huge":          strings.Repeat("[", 2*maxLease),
	} {
		path := filepath.Join(t.TempDir(), "lease")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readLease(path); !errors.Is(err, ErrLeaseCorrupt) {
			t.Errorf("%s: got %v, want ErrLeaseCorrupt", name, err)
		}
		if killed, err := Reclaim(t.Context(), path, ReclaimOptions{}); err != nil || len(killed) > 0 {
			t.Errorf("%s: got %+v, %v; want nobody killed", name, killed, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%s: the lease is gone: %v", name, err)
		}
	}
}

func TestReclaimWithoutLease(t *testing.T) {
	killed, err := Reclaim(t.Context(), filepath.Join(t.TempDir(), "none"), ReclaimOptions{})
	if err != nil || len(killed) > 0 {
		t.Errorf("got %+v, %v", killed, err)
	}
}

// The pid is somebody else's by now: right pid, right group, right binary, even the right mark, wrong start time.
func TestReclaimNeverSignalsAReusedPid(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	p := mustStart(t, roleSpec("watcher", heard.hear))
	both := heard.ready(t, 2)
	lease := leaseOf(p)
	lease.Identity.StartTime = earlier(t, lease.Identity.StartTime)
	assertReclaimed(t, mustWriteLease(t, lease), nil)
	if !lease.Identity.Alive() && both[0].Alive() && both[1].Alive() && p.groupAlive() {
		return
	}
	t.Error("a stranger was signalled")
}

// earlier keeps the boot and makes the time small, so that everything of today is younger.
func earlier(t *testing.T, start string) string {
	t.Helper()
	boot, _, hasBoot := strings.Cut(start, ":")
	if !hasBoot {
		return "1"
	}
	return boot + ":1"
}

// The leader is gone. The members are the orphan of some other run, which has the same group and the same binary.
func TestReclaimSparesOrphansOfOtherRuns(t *testing.T) {
	tests := map[string]struct {
		change func(*Lease)
		kills  bool
	}{
		"same run":                    {func(*Lease) {}, true},
		"other mark":                  {func(l *Lease) { l.RunID = "other" }, false},
		"no mark, same binary":        {func(l *Lease) { l.RunID = "" }, true},
		"no mark, other binary":       {func(l *Lease) { l.RunID, l.Binary = "", "/bin/sh" }, false},
		"same mark, started too late": {func(l *Lease) { l.Identity.StartTime = later(l.Identity.StartTime) }, false},
		"same mark, other boot":       {func(l *Lease) { l.Identity.StartTime = "x" + l.Identity.StartTime }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			testhelp.CheckLeaks(t)
			heard := newListener()
			spec := roleSpec("leaver", heard.hear)
			spec.spareGroup = true
			spec.drainGrace = 5 * time.Second
			p := mustStart(t, spec)
			orphan := heard.ready(t, 1)
			lease := leaseOf(p)
			tt.change(&lease)
			mustBeReaped(t, p)
			if tt.kills {
				assertReclaimed(t, mustWriteLease(t, lease), orphan)
				return
			}
			assertReclaimed(t, mustWriteLease(t, lease), nil)
			if !orphan[0].Alive() {
				t.Error("a stranger was signalled")
			}
			orphan[0].Kill()
		})
	}
}

// A member is on its way out, killed by the tether a moment ago: it has lost its environment and its binary, and still has
// its files, and their locks. That is no stranger, however long the kernel takes.
func TestReclaimWaitsForWhoIsEnding(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	spec := roleSpec("leaver:big", heard.hear)
	spec.spareGroup = true
	spec.drainGrace = 5 * time.Second
	p := mustStart(t, spec)
	orphan := heard.ready(t, 1)
	lease := leaseOf(p)
	mustBeReaped(t, p)
	if err := orphan[0].Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := Reclaim(t.Context(), mustWriteLease(t, lease), ReclaimOptions{}); err != nil || orphan[0].Alive() {
		t.Error(err)
	}
	mustExit(t, p)
}

func later(start string) string {
	boot, ticks, _ := strings.Cut(start, ":")
	return boot + ":9" + ticks
}

func mustBeReaped(t *testing.T, p *Process) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := waitUntil(ctx, func() bool { return !p.Identity().proven() }); err != nil {
		t.Fatal(err)
	}
}

func TestReclaimStopsWithItsContext(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	p := mustStart(t, roleSpec("sleep", heard.hear))
	heard.ready(t, 1)
	path := mustWriteLease(t, leaseOf(p))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	killed, err := Reclaim(ctx, path, ReclaimOptions{})
	if !errors.Is(err, ErrStillAlive) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrStillAlive and the cause", err)
	}
	if len(killed) != 1 {
		t.Errorf("got %+v, want one kill", killed)
	}
	mustExit(t, p)
	assertReclaimed(t, path, nil)
}
