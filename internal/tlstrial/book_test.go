package tlstrial

import (
	"slices"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/soak"
)

func tick(run string, first, last uint64) Message {
	return Message{Kind: KindTicks, Instance: "vendor", Run: run, First: first, Last: last}
}

func TestBookKnowsWhatIsAcknowledged(t *testing.T) {
	tests := map[string]struct {
		messages []Message
		acked    []uint64
		drained  bool
	}{
		"handed out only":           {messages: []Message{tick("a", 1, 2)}},
		"asked again":               {messages: []Message{tick("a", 1, 2), tick("a", 3, 4)}, acked: []uint64{1, 2}},
		"asked by another run":      {messages: []Message{tick("a", 1, 2), tick("b", 3, 4)}},
		"and again":                 {messages: []Message{tick("a", 1, 2), tick("b", 3, 4), tick("b", 5, 6)}, acked: []uint64{3, 4}},
		"paused":                    {messages: []Message{tick("a", 1, 2), tick("a", 1, 2), tick("a", 1, 2)}, acked: []uint64{1, 2}, drained: true},
		"paused, then another run":  {messages: []Message{tick("a", 1, 2), tick("b", 1, 2)}},
		"of an instance of no name": {messages: []Message{{Kind: KindTicks, Run: "a", First: 1, Last: 2}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := newBook(time.Now())
			for _, m := range test.messages {
				b.note(m)
			}
			if p := b.page("vendor"); !slices.Equal(p.acked, test.acked) || p.drained != test.drained {
				t.Errorf("acknowledged %v, drained %t", p.acked, p.drained)
			}
		})
	}
}

func TestReportIsNotOKWhenALineIsLost(t *testing.T) {
	b := newBook(time.Now())
	b.note(tick("a", 1, 3))
	b.note(tick("a", 4, 6))
	for have, ok := range map[uint64]bool{2: false, 3: true} {
		rep := &Report{}
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

func TestNumberOf(t *testing.T) {
	for line, want := range map[string]uint64{
		`{"name":"ticks","columns":{"n":"17"},"action":"added"}`: 17,
		`{"name":"other","columns":{"n":"17"}}`:                  0,
		`{"name":"ticks","columns":{}}`:                          0,
		`[`:                                                      0,
	} {
		if got, ok := NumberOf([]byte(line)); got != want || ok != (want != 0) {
			t.Errorf("%s: %d, %t", line, got, ok)
		}
	}
}
