package bench

import "math"

// line is y = Base + Slope x, with how far the measured points are from it.
type line struct {
	Base, Slope float64
	Residual    float64 // the largest distance, as a part of the largest y
}

// fitLine returns the straight line of least squares. It needs two different x.
func fitLine(xs, ys []float64) line {
	n := float64(len(xs))
	var sx, sy, sxx, sxy float64
	for i, x := range xs {
		sx, sy, sxx, sxy = sx+x, sy+ys[i], sxx+x*x, sxy+x*ys[i]
	}
	var l line
	l.Slope = (n*sxy - sx*sy) / (n*sxx - sx*sx)
	l.Base = (sy - l.Slope*sx) / n
	var worst, largest float64
	for i, x := range xs {
		worst = max(worst, math.Abs(ys[i]-l.Base-l.Slope*x))
		largest = max(largest, math.Abs(ys[i]))
	}
	if largest > 0 {
		l.Residual = worst / largest
	}
	return l
}
