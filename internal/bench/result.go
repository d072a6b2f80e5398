package bench

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// Result is a measured row.
type Result struct {
	Work   string   `json:"work"`
	Unit   string   `json:"unit"`
	Ours   *float64 `json:"ours"`  // medians; null when there is none
	Plain  *float64 `json:"plain"` // of osquery-go as its README shows it
	Floor  *float64 `json:"floor"`
	Ratio  *float64 `json:"ratio"`  // ours to floor
	Target string   `json:"target"` // empty without one
	OK     bool     `json:"ok"`
}

func newResult(row Row, v values) Result {
	return Result{
		Work: row.Work, Unit: row.Unit,
		Ours: known(v.of(Ours)), Plain: known(v.of(Plain)), Floor: known(v.of(Floor)),
		Ratio:  known(v.of(Ours) / v.of(Floor)),
		Target: row.Goal.text(v), OK: row.Goal.met(v),
	}
}

// known is nil for what was not measured, and for a ratio to nothing.
func known(x float64) *float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return &x
}

func shown(x *float64) string {
	if x == nil {
		return "-"
	}
	return number(*x)
}

// WriteJSON writes one JSON object a line.
func WriteJSON(w io.Writer, r Result) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// WriteTable writes results as a Markdown table that is readable as it is.
func WriteTable(w io.Writer, results []Result) error {
	lines := [][]string{{"work", "unit", "ours", "plain", "floor", "ours/floor", "plain/ours", "target", "ok"}}
	for _, r := range results {
		lines = append(lines, r.cells())
	}
	width := make([]int, len(lines[0]))
	for _, cells := range lines {
		for i, c := range cells {
			width[i] = max(width[i], len(c))
		}
	}
	rule := make([]string, len(width))
	for i, n := range width {
		rule[i] = strings.Repeat("-", n)
	}
	for _, cells := range slices.Insert(lines, 1, rule) {
		var b strings.Builder
		for i, c := range cells {
			fmt.Fprintf(&b, "| %-*s ", width[i], c)
		}
		if _, err := fmt.Fprintln(w, b.String()+"|"); err != nil {
			return err
		}
	}
	return nil
}

func (r Result) cells() []string {
	var worse *float64
	if r.Plain != nil && r.Ours != nil {
		worse = known(*r.Plain / *r.Ours)
	}
	ok := "yes"
	switch {
	case r.Target == "":
		ok = ""
	case !r.OK:
		ok = "NO"
	}
	return []string{r.Work, r.Unit, shown(r.Ours), shown(r.Plain), shown(r.Floor), shown(r.Ratio), shown(worse), r.Target, ok}
}
