package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// formatTable gives one row an instance, from what Runner.Snapshots says.
func formatTable(snapshots []stats.Snapshot) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "INSTANCE\tSTATE\tPID\tUP\tRESTARTS\tQUERIES\tLOG LINES IN\tOUT\tLAST END")
	for _, s := range snapshots {
		pid, up, end := "-", "-", "-"
		if s.Run != nil && s.Run.PID != 0 {
			pid, up = fmt.Sprint(s.Run.PID), time.Since(s.Run.Started).Truncate(time.Second).String()
		}
		if len(s.History) > 0 {
			end = string(s.History[0].Cause)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", s.Instance, s.State, pid, up,
			s.Totals.Restarts, s.Totals.Queries, s.Totals.LinesIn, s.Totals.LinesOut, end)
	}
	_ = w.Flush() // into memory
	return b.String()
}

// clip cuts lines at the edge of the terminal: one that wraps would take two rows,
// and the table could not be drawn in its place again.
func clip(text string, columns int) string {
	lines := strings.SplitAfter(text, "\n")
	for i, line := range lines {
		if runes := []rune(strings.TrimSuffix(line, "\n")); len(runes) > columns-1 {
			lines[i] = string(runes[:columns-1]) + "\n"
		}
	}
	return strings.Join(lines, "")
}

func indent(text string) string {
	return "        " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n        ")
}
