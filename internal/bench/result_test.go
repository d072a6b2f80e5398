package bench

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

func TestGoals(t *testing.T) {
	v := values{Ours: {9, 11, 10}, Floor: {5, 4, 6}, Other: {20}}
	tests := map[string]struct {
		goal Goal
		text string
		met  bool
	}{
		"none":           {Goal{}, "", true},
		"at most":        {Goal{Kind: AtMost, Bound: 10}, "<= 10", true},
		"more":           {Goal{Kind: AtMost, Bound: 9.9}, "<= 9.9", false},
		"times":          {Goal{Kind: AtMostTimes, Bound: 2, Of: Floor}, "<= 2 x floor", true},
		"too many times": {Goal{Kind: AtMostTimes, Bound: 1.9, Of: Floor}, "<= 1.9 x floor", false},
		"at least":       {Goal{Kind: AtLeastTimes, Bound: 0.5, Of: Other, Name: "x"}, ">= 0.5 x x (20)", true},
		"too few":        {Goal{Kind: AtLeastTimes, Bound: 0.51, Of: Other, Name: "x"}, ">= 0.51 x x (20)", false},
		"pairs":          {Goal{Kind: AtMostMore, Bound: 4, Of: Floor}, "<= floor + 4", true},
		"pairs, more":    {Goal{Kind: AtMostMore, Bound: 3.9, Of: Floor}, "<= floor + 3.9", false},
		"not measured":   {Goal{Kind: AtMostTimes, Bound: 2, Of: Plain}, "<= 2 x plain", false},
	}
	for name, tt := range tests {
		if got := tt.goal.text(v); got != tt.text {
			t.Errorf("%s: text %q, want %q", name, got, tt.text)
		}
		if got := tt.goal.met(v); got != tt.met {
			t.Errorf("%s: met %v, want %v", name, got, tt.met)
		}
	}
	unpaired := values{Ours: {10}, Floor: {4, 6}}
	if got := unpaired.more(Floor); got != 5 {
		t.Errorf("unpaired: %v more, want 5", got)
	}
}

func TestResultAsJSONAndTable(t *testing.T) {
	r := newResult(Row{Work: "w", Unit: "ms", Goal: Goal{Kind: AtMostTimes, Bound: 1.5, Of: Floor}},
		values{Ours: {2}, Plain: {8}, Floor: {1}})
	var out strings.Builder
	if err := WriteJSON(&out, r); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(out.String()), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"work": "w", "unit": "ms", "ours": 2.0, "plain": 8.0, "floor": 1.0, "ratio": 2.0, "target": "<= 1.5 x floor", "ok": false,
	}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %v, want %v", k, got[k], v)
		}
	}
	out.Reset()
	if err := WriteTable(&out, []Result{r, newResult(Row{Work: "empty"}, values{})}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| w     | ms   | 2    | 8     | 1     | 2          | 4          | <= 1.5 x floor | NO |", "| empty |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}

func TestNumber(t *testing.T) {
	for x, want := range map[float64]string{1234.56: "1235", 12.345: "12.3", 1.23456: "1.235", 0: "0", math.Inf(1): "-", -250: "-250"} {
		if got := number(x); got != want {
			t.Errorf("%v is %q, want %q", x, got, want)
		}
	}
	if got := number(math.NaN()); got != "-" {
		t.Errorf("NaN is %q", got)
	}
}

func TestFitLine(t *testing.T) {
	l := fitLine([]float64{0, 10, 20}, []float64{5, 25, 45})
	if l.Slope != 2 || l.Base != 5 || l.Residual != 0 {
		t.Errorf("a straight line became %+v", l)
	}
	if l := fitLine([]float64{0, 1, 2}, []float64{0, 6, 0}); l.Slope != 0 || math.Abs(l.Residual-4.0/6) > 1e-9 {
		t.Errorf("a bent line became %+v", l)
	}
}
