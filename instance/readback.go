package instance

import (
	"context"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/stats"
)

// readBackFlags compares what osqueryd runs with to what it was passed, because
// osqueryd ignores some flags in silence and lets a config change others.
func (r *run) readBackFlags(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.o.healthTimeout)
	defer cancel()
	if err := r.reconnect(ctx); err != nil {
		return // osqueryd is on its way out, or health will tell
	}
	rows, err := callTable(ctx, r.session.control, "osquery_flags")
	if err != nil {
		r.log.Debug("osquery_flags could not be read", "err", err)
		return
	}
	values := make(map[string]string, len(rows))
	for _, row := range rows {
		values[row["name"]] = row["value"]
	}
	for _, f := range r.o.passedFlags(r.in.place(), extensionName, r.in.Binary()) {
		got, known := values[f.name]
		if !known || sameFlag(f.value, got) {
			continue // gflags' own, such as flagfile, are not listed by every version
		}
		r.log.Warn("a flag did not take effect", "flag", f.name, "want", f.value, "got", got)
		r.in.emit(stats.FlagIneffective{Head: r.in.head(), Flag: f.name, Want: f.value, Got: got})
	}
}

// sameFlag compares values as osqueryd prints them: true for 1, 8 for 008.
func sameFlag(want, got string) bool {
	if want == got {
		return true
	}
	if w, ok := boolFlag(want); ok {
		g, ok := boolFlag(got)
		return ok && w == g
	}
	w, errW := strconv.ParseFloat(want, 64)
	g, errG := strconv.ParseFloat(got, 64)
	return errW == nil && errG == nil && w == g
}

// boolFlag takes what osqueryd takes for a truth value.
func boolFlag(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "y", "yes":
		return true, true
	case "n", "no":
		return false, true
	}
	value, err := strconv.ParseBool(strings.ToLower(s))
	return value, err == nil
}
