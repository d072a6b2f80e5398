package stats

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// WriteTable writes snapshots as a table for people: a heading and one line per instance,
// in the order given. now is the time up to which uptimes count.
func WriteTable(w io.Writer, snapshots []Snapshot, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "INSTANCE\tSTATE\tPID\tUP\tRESTARTS\tQUERIES\tLINES IN\tLINES OUT\tLAST END") //nolint:errcheck // Flush reports it
	for _, s := range snapshots {
		pid, up, end := "-", "-", "-"
		if s.Run != nil && s.Run.PID != 0 {
			pid, up = fmt.Sprint(s.Run.PID), now.Sub(s.Run.Started).Truncate(time.Second).String()
		}
		if len(s.History) > 0 {
			end = string(s.History[0].Cause)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Instance, s.State, pid, up, //nolint:errcheck // Flush reports it
			s.Totals.Restarts, s.Totals.Queries, s.Totals.LinesIn, s.Totals.LinesOut, end)
	}
	return t.Flush()
}
