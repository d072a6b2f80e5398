package plugin

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// versions of a config, which differ in one query.
func version(n int) map[string]string {
	return map[string]string{"main": fmt.Sprintf(`{"schedule":{"q":{"query":"select %d","interval":60}}}`, n)}
}

// newOsqueryd is a new osqueryd, or worker, that asks for its config.
func (r *rig) newOsqueryd(what string, want map[string]string) {
	r.t.Helper()
	r.Registry()
	got, status := r.config()
	if status.Code != 0 || got["main"] != want["main"] {
		r.t.Errorf("%s: osqueryd is handed %v, %s; want %v", what, got, status.Message, want)
	}
}

// proven is a rig whose osqueryd has run with version 1 for its probation.
// probationTime is the default of Config.Probation.
const probationTime = 2 * time.Minute

func proven(t *testing.T, dir string, src *source, opts ...option) *rig {
	t.Helper()
	r := newRig(t, dir, append(opts, configFrom(src))...)
	r.start()
	src.change(version(1), nil)
	r.newOsqueryd("at first", version(1))
	pass(probationTime)
	synctest.Wait()
	if text, err := os.ReadFile(r.configs.path()); err != nil || !strings.Contains(string(text), "select 1") {
		t.Fatalf("after its probation the config is not kept: %q, %v", text, err)
	}
	return r
}

// A config on probation does not take the place of the one that osqueryd survived.
func TestTrial28ConfigIsGoodWhenOsquerydHasRunWithIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, src := t.TempDir(), &source{}
		r := proven(t, dir, src)
		src.change(version(2), nil)
		r.newOsqueryd("a new config", version(2))
		pass(probationTime - time.Second)
		r.OsquerydGone(true)
		src.change(nil, errDown)
		r.newOsqueryd("the server is away after one death", version(1))
		equal(t, "set aside", len(eventsOf[stats.ConfigSetAside](r)), 0)
		r.shut()
		r = newRig(t, dir, configFrom(src))
		r.newOsqueryd("the host was restarted", version(1))
	})
}

// One that osqueryd died with twice is served no more, also not by the next host, until it changes.
func TestTrial28ConfigThatKillsTwiceIsSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, src := t.TempDir(), &source{}
		r := proven(t, dir, src)
		src.change(version(2), nil)
		for i := range 2 {
			r.newOsqueryd(fmt.Sprintf("time %d", i), version(2))
			pass(time.Minute)
			r.OsquerydGone(true)
		}
		aside := eventsOf[stats.ConfigSetAside](r)
		if len(aside) != 1 || aside[0].Deaths != 2 || aside[0].Hash == "" || aside[0].Sources != 1 {
			t.Errorf("announced: %+v", aside)
		}
		for i := range 3 {
			r.newOsqueryd(fmt.Sprintf("set aside, time %d", i), version(1))
		}
		if _, _, err := r.FetchConfig(t.Context()); !errors.Is(err, extension.ErrConfigSetAside) {
			t.Errorf("FetchConfig returns %v", err)
		}
		_, pending := r.PendingConfig()
		equal(t, "pending", pending, false)
		r.shut()

		r = newRig(t, dir, configFrom(src))
		r.newOsqueryd("the host was restarted", version(1))
		src.change(version(3), nil)
		r.newOsqueryd("its content changed", version(3))
		equal(t, "announced again", len(eventsOf[stats.ConfigSetAside](r)), 0)
	})
}

// Without any good config osqueryd gets an empty one, rather than what kills it.
func TestTrial28FirstConfigThatKills(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, src := t.TempDir(), &source{config: version(1)}
		r := newRig(t, dir, configFrom(src))
		r.start()
		for range 2 {
			r.newOsqueryd("the first config", version(1))
			r.OsquerydGone(true)
		}
		r.newOsqueryd("set aside", map[string]string{"main": "{}"})
		pass(time.Hour)
		r.shut()
		r = newRig(t, dir, configFrom(src))
		r.newOsqueryd("the host was restarted", nil)
		src.change(nil, errDown)
		r.Registry()
		if got, status := r.config(); status.Code != 1 {
			t.Errorf("the empty config was kept as good: %v", got)
		}
	})
}

// What is no death within the probation counts for nothing.
func TestTrial28WhatDoesNotCount(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"asked to stop":       func(r *rig) { r.OsquerydGone(false) },
		"after the probation": func(r *rig) { pass(probationTime); r.OsquerydGone(true) },
		"told of twice":       func(r *rig) { r.OsquerydGone(false); r.OsquerydGone(true) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				src := &source{config: version(2)}
				r := newRig(t, t.TempDir(), configFrom(src)) // it does not run: time counts all the same
				for range 5 {
					r.newOsqueryd(name, version(2))
					end(r)
				}
				equal(t, "set aside", len(eventsOf[stats.ConfigSetAside](r)), 0)
			})
		})
	}
}

// Time in which no osqueryd ran is no probation, and a config that was replaced is not proven.
func TestTrial28OnlyRunningCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{}
		r := proven(t, t.TempDir(), src)
		src.change(version(2), nil)
		r.newOsqueryd("a new config", version(2))
		r.OsquerydGone(true)
		pass(time.Hour)
		src.change(nil, errDown)
		r.newOsqueryd("an hour later", version(1))
		src.change(version(3), nil)
		r.newOsqueryd("another", version(3))
		pass(time.Minute)
		src.change(version(4), nil)
		r.config()
		pass(time.Minute + time.Second)
		r.OsquerydGone(true)
		src.change(nil, errDown)
		r.newOsqueryd("the third and the fourth had a minute each", version(1))
	})
}

// A host can do without probation.
func TestTrial28NoProbation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, src := t.TempDir(), &source{config: version(2)}
		r := newRig(t, dir, configFrom(src), withConfigProbation(0))
		for range 5 {
			r.newOsqueryd("each time", version(2))
			r.OsquerydGone(true)
		}
		r.shut()
		src.change(nil, errDown)
		r = newRig(t, dir, configFrom(src))
		r.newOsqueryd("the host was restarted", version(2))
	})
}

// A server without a config, and no server at all, have nothing that could be set aside.
func TestTrial28EmptyConfigIsNeverSetAside(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{}
		r := proven(t, t.TempDir(), src)
		src.change(nil, nil)
		for range 3 {
			r.newOsqueryd("no config any more", map[string]string{"main": "{}"})
			r.OsquerydGone(true)
		}
		src.change(nil, errDown)
		r.newOsqueryd("that is the last good one", map[string]string{"main": "{}"})
		alone := newRig(t, t.TempDir())
		for range 3 {
			alone.newOsqueryd("without a transport", nil)
			alone.OsquerydGone(true)
		}
		equal(t, "set aside", len(eventsOf[stats.ConfigSetAside](r))+len(eventsOf[stats.ConfigSetAside](alone)), 0)
	})
}

// What osqueryd is answered is never older than what it was pushed meanwhile.
func TestTrial20AnswerIsNeverOlderThanWhatWasPushed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{config: version(3)}
		r := newRig(t, t.TempDir(), configFrom(src))
		r.Registry()
		old := &prepared{sources: version(3), hash: "3"}
		src.change(version(4), nil)
		config, _, err := r.FetchConfig(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		r.ConfigDelivered(config)
		equal(t, "answered", r.configs.latest(old).sources["main"], version(4)["main"])

		// A push that was overtaken leaves the newest pending.
		src.change(version(5), nil)
		r.config()
		r.ConfigDelivered(config)
		newest, pending := r.PendingConfig()
		if !pending || newest["main"] != version(5)["main"] {
			t.Errorf("pending: %v, %v", newest, pending)
		}
		r.ConfigDelivered(newest)
		_, pending = r.PendingConfig()
		equal(t, "pending in the end", pending, false)
	})
}
