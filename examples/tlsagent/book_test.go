package main

import (
	"slices"
	"testing"
	"time"

	"github.com/osquery/osquery-go/plugin/table"

	"github.com/osqvisor/osqvisor/internal/soak"
)

func tick(run string, first, last uint64) message {
	return message{Kind: saysTicks, Instance: "vendor", Run: run, First: first, Last: last}
}

func TestBookKnowsWhatIsAcknowledged(t *testing.T) {
	tests := map[string]struct {
		says    []message
		acked   []uint64
		settled bool
	}{
		"handed out only":           {says: []message{tick("a", 1, 2)}},
		"asked again":               {says: []message{tick("a", 1, 2), tick("a", 3, 4)}, acked: []uint64{1, 2}},
		"asked by another run":      {says: []message{tick("a", 1, 2), tick("b", 3, 4)}},
		"and again":                 {says: []message{tick("a", 1, 2), tick("b", 3, 4), tick("b", 5, 6)}, acked: []uint64{3, 4}},
		"paused":                    {says: []message{tick("a", 1, 2), tick("a", 1, 2), tick("a", 1, 2)}, acked: []uint64{1, 2}, settled: true},
		"paused, then another run":  {says: []message{tick("a", 1, 2), tick("b", 1, 2)}},
		"of an instance of no name": {says: []message{{Kind: saysTicks, Run: "a", First: 1, Last: 2}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBook(time.Now())
			for _, m := range test.says {
				b.note(m)
			}
			if p := b.page("vendor"); !slices.Equal(p.acked, test.acked) || p.settled != test.settled {
				t.Errorf("acknowledged %v, settled %t", p.acked, p.settled)
			}
		})
	}
}

func TestReportIsNotOKWhenALineIsLost(t *testing.T) {
	b := newBook(time.Now())
	b.note(tick("a", 1, 3))
	b.note(tick("a", 4, 6))
	for have, ok := range map[uint64]bool{2: false, 3: true} {
		rep := &report{}
		rep.count(b.judge(func(id string) []soak.Batch {
			if id != "vendor" {
				return nil
			}
			return []soak.Batch{{ID: "x", Lines: []uint64{1, 2, 3}[:have]}}
		}))
		rep.conclude(nil)
		if rep.OK != ok || rep.Produced != 3 || uint64(rep.Delivered) != have {
			t.Errorf("with %d of 3 lines: %+v", have, rep)
		}
	}
}

func TestTicks(t *testing.T) {
	var told []uint64
	tk := newTicks(5, func(first, last uint64) error {
		told = append(told, first, last)
		return nil
	})
	for range 2 {
		rows, err := tk.generate(t.Context(), table.QueryContext{})
		if err != nil || len(rows) != ticksAtOnce {
			t.Fatalf("%d rows, %v", len(rows), err)
		}
	}
	tk.pause()
	rows, err := tk.generate(t.Context(), table.QueryContext{})
	if err != nil || rows[0]["n"] != "25" {
		t.Errorf("after the pause: %v, %v", rows, err)
	}
	if want := []uint64{5, 24, 25, 44, 25, 44}; !slices.Equal(told, want) {
		t.Errorf("told %v, not %v", told, want)
	}
}

func TestNumberOf(t *testing.T) {
	for line, want := range map[string]uint64{
		`{"name":"ticks","columns":{"n":"17"},"action":"added"}`: 17,
		`{"name":"other","columns":{"n":"17"}}`:                  0,
		`{"name":"ticks","columns":{}}`:                          0,
		`[`:                                                      0,
	} {
		if got, ok := numberOf([]byte(line)); got != want || ok != (want != 0) {
			t.Errorf("%s: %d, %t", line, got, ok)
		}
	}
}
