package main

import (
	"slices"
	"testing"

	"github.com/osquery/osquery-go/plugin/table"
)

func TestTicks(t *testing.T) {
	var sent []uint64
	tk := newTicks(5, func(first, last uint64) error {
		sent = append(sent, first, last)
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
	if want := []uint64{5, 24, 25, 44, 25, 44}; !slices.Equal(sent, want) {
		t.Errorf("sent %v, not %v", sent, want)
	}
}
