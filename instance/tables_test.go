package instance_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// uuidOf gives osqueryd's number for an extension; 0 when it has none.
func uuidOf(t *testing.T, r *running, name string) int64 {
	t.Helper()
	c, err := thriftconn.Dial(patient(t), r.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	list, err := c.Extensions(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	for uuid, info := range list {
		if info.GetName() == name {
			return int64(uuid)
		}
	}
	return 0
}

func value(t *testing.T, r *running, sql string) string {
	t.Helper()
	rows, err := r.Query(patient(t), sql)
	if err != nil {
		t.Errorf("%s: %v", sql, err)
		return ""
	}
	if rows.Len() != 1 {
		t.Errorf("%s: %d rows", sql, rows.Len())
		return ""
	}
	return rows.Row(0).Get("value")
}

// Tables are exchanged while osqueryd runs, and the plugins that it depends on stay
// registered as they are.
func TestSetTables(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary, instance.WithTables(hostTable("one", "1")))
		plugins := uuidOf(t, r, "osqvisor")
		if v := value(t, r, "select value from one"); v != "1" {
			t.Errorf("one is %q", v)
		}
		if err := r.SetTables(patient(t), hostTable("one", "uno"), hostTable("two", "2")); err != nil {
			t.Fatal(err)
		}
		if v := value(t, r, "select value from one") + value(t, r, "select value from two"); v != "uno2" {
			t.Errorf("one and two are %q", v)
		}
		if err := r.SetTables(patient(t)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Query(patient(t), "select value from one"); err == nil {
			t.Error("a table that was taken away answers")
		}
		if uuid := uuidOf(t, r, "osqvisor_tables"); uuid != 0 {
			t.Errorf("the empty registration %d is left", uuid)
		}
		if uuid := uuidOf(t, r, "osqvisor"); uuid != plugins {
			t.Errorf("the plugins were registered anew: %d, was %d", uuid, plugins)
		}
		if err := r.SetTables(patient(t), nil, hostTable("a b", "")); err == nil || !strings.Contains(err.Error(), "table 2") {
			t.Errorf("bad tables gave %v", err)
		}
	})
}

// Tables that are set at any moment of a start are there when it is ready.
func TestSetTablesDuringStart(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		r := startUnready(t, binary)
		next[stats.ProcessStarted](t, r.events)
		if err := r.SetTables(patient(t), hostTable("late", "here")); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(patient(t)); err != nil {
			t.Fatal(err)
		}
		if err := r.PushConfig(patient(t)); err != nil { // the run's goroutine answers after it has looked at the tables
			t.Fatal(err)
		}
		if v := value(t, r, "select value from late"); v != "here" {
			t.Errorf("late is %q", v)
		}
	})
}

// A table that osqueryd has itself is left out and told of; the others are there.
func TestCollidingTableIsParked(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary, instance.WithTables(hostTable("time", "x"), hostTable("mine", "here")))
		if e := next[stats.TableParked](t, r.events); e.Table != "time" || e.Err == nil {
			t.Errorf("%+v", e)
		}
		if v := value(t, r, "select value from mine"); v != "here" {
			t.Errorf("mine is %q", v)
		}
		if rows, err := r.Query(patient(t), "select unix_time from time"); err != nil || rows.Len() != 1 {
			t.Errorf("osqueryd's own table: %d rows, %v", rows.Len(), err)
		}
	})
}

// A config that is pushed applies at once; one that is wrong never arrives.
func TestPushConfig(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		server := extension.NewMemory()
		server.SetConfig("vendor", map[string]string{"main": `{"schedule": {"first": {"query": "select 1", "interval": 3600}}}`})
		r := start(t, binary, instance.WithTransport(server))
		scheduled := func(name string) int {
			t.Helper()
			rows, err := r.Query(patient(t), "select name from osquery_schedule where name = '"+name+"'")
			if err != nil {
				t.Fatal(err)
			}
			return rows.Len()
		}
		eventually(t, "the first config is there", func() bool { return scheduled("first") == 1 })
		server.SetConfig("vendor", map[string]string{"main": `{"schedule": {"second": {"query": "select 2", "interval": 3600}}}`})
		if err := r.PushConfig(patient(t)); err != nil {
			t.Fatal(err)
		}
		if scheduled("second") != 1 || scheduled("first") != 0 {
			t.Error("the pushed config does not apply")
		}
		next[stats.ConfigPushed](t, r.events)
		server.SetConfig("vendor", map[string]string{"main": `{"schedule": {"third": `})
		if err := r.PushConfig(patient(t)); err == nil {
			t.Error("a config that is no JSON was pushed")
		}
		next[stats.ConfigRefused](t, r.events)
		if scheduled("second") != 1 {
			t.Error("a refused config took the last good one away")
		}
		server.SetConfig("vendor", map[string]string{"main": `{"schedule": {"second": {"query": "select 2", "interval": 3600}}}`})
		if err := r.PushConfig(patient(t)); err != nil {
			t.Errorf("what osqueryd has already: %v", err)
		}
		r.stop()
		_ = r.wait(t)
		if err := r.PushConfig(patient(t)); !errors.Is(err, instance.ErrNotRunning) {
			t.Errorf("a push after the run gave %v", err)
		}
	})
}

// A good start announces no flag that did not take effect; a config that changes one
// by the back door is found out by the next run.
func TestFlagsAreReadBack(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		// The run's goroutine checks health after it has read the flags, a second after ready.
		checked := make(chan struct{}, 1)
		r := start(t, binary, instance.WithFlag("verbose", "1"), instance.WithFlag("schedule_max_drift", "61"),
			instance.WithHealth(instance.Health{
				Delay: 1500 * time.Millisecond,
				Check: func(context.Context, *instance.Instance) error {
					checked <- struct{}{}
					return nil
				},
			}))
		select {
		case <-checked:
		case <-patient(t).Done():
			t.Fatal("health is not checked")
		}
		for {
			select {
			case e := <-r.events.ch:
				if f, bad := e.(stats.FlagIneffective); bad {
					t.Errorf("%s: want %q, got %q", f.Flag, f.Want, f.Got)
				}
				continue
			default:
			}
			break
		}
	})
}

func TestIneffectiveFlagIsTold(t *testing.T) {
	t.Parallel()
	script := fast
	script.Tables = []osquerydtest.Table{{
		Name: "osquery_flags", Columns: []string{"name", "value"},
		Rows: []map[string]string{{"name": "verbose", "value": "false"}, {"name": "disable_watchdog", "value": "0"}},
	}}
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(script)).Path(), instance.WithFlag("verbose", "true"))
	if e := next[stats.FlagIneffective](t, r.events); e.Flag != "verbose" || e.Want != "true" || e.Got != "false" {
		t.Errorf("%+v", e)
	}
}

// The first check has a delay of its own.
func TestHealthDelay(t *testing.T) {
	t.Parallel()
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(),
		instance.WithHealth(instance.Health{
			Interval: 24 * time.Hour, Timeout: time.Second, Failures: 2, Delay: -1,
			Check: func(context.Context, *instance.Instance) error { return errors.New("no") },
		}))
	if e := next[stats.HealthFailed](t, r.events); e.InARow != 1 {
		t.Errorf("%+v", e)
	}
}
