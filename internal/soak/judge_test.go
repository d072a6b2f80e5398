package soak

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	type lines = []uint64
	tests := map[string]struct {
		acked   lines
		batches []Batch
		want    Verdict
		ok      bool
	}{
		"nothing happened": {},
		"all well": {
			acked: lines{1, 2, 4}, batches: []Batch{{"a", lines{1, 2}}, {"b", lines{4}}},
			want: Verdict{Produced: 3, Delivered: 3}, ok: true,
		},
		"unacknowledged line came": {
			acked: lines{1, 3}, batches: []Batch{{"a", lines{1, 2}}, {"b", lines{3}}},
			want: Verdict{Produced: 3, Delivered: 3}, ok: true,
		},
		"batch came again": {
			acked: lines{1, 2}, batches: []Batch{{"a", lines{1}}, {"a", lines{1}}, {"b", lines{2}}, {"a", lines{1}}},
			want: Verdict{Produced: 2, Delivered: 2, Repeats: 2}, ok: true,
		},
		"lost": {
			acked: lines{3, 2, 1}, batches: []Batch{{"a", lines{1}}},
			want: Verdict{Produced: 3, Delivered: 1, Lost: 2, FirstLost: 2},
		},
		"duplicate under another id": {
			acked: lines{1, 2}, batches: []Batch{{"a", lines{1, 2}}, {"b", lines{2}}},
			want: Verdict{Produced: 2, Delivered: 2, Duplicates: 1},
		},
		"out of order": {
			acked: lines{1, 2, 3}, batches: []Batch{{"a", lines{1, 3}}, {"b", lines{2}}},
			want: Verdict{Produced: 3, Delivered: 3, OutOfOrder: 1},
		},
		"an id for other lines": {
			acked: lines{1}, batches: []Batch{{"a", lines{1}}, {"a", lines{1, 2}}},
			want: Verdict{Produced: 1, Delivered: 1, Repeats: 1, Changed: 1},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := Judge(test.acked, test.batches)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if got.OK() != test.ok {
				t.Errorf("OK is %t", got.OK())
			}
		})
	}
}
