package bench

import (
	"math"
	"slices"
	"strconv"
)

// values are the samples of one row, by who, in the order in which they came.
type values [whos][]float64

// of returns the median, or NaN without samples.
func (v values) of(w Who) float64 { return median(v[w]) }

// more says by how much ours exceeds another's. Samples that were taken in pairs,
// of the same event, are compared in pairs.
func (v values) more(w Who) float64 {
	if len(v[Ours]) != len(v[w]) {
		return v.of(Ours) - v.of(w)
	}
	diffs := make([]float64, len(v[w]))
	for i := range diffs {
		diffs[i] = v[Ours][i] - v[w][i]
	}
	return median(diffs)
}

func median(in []float64) float64 {
	if len(in) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(in))
	m := len(s) / 2
	if len(s)%2 == 1 {
		return s[m]
	}
	return (s[m-1] + s[m]) / 2
}

// number prints three significant digits, or all digits of what is larger.
func number(x float64) string {
	switch a := math.Abs(x); {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return "-"
	case a >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64)
	default:
		return strconv.FormatFloat(math.Round(x*1000)/1000, 'f', -1, 64)
	}
}
