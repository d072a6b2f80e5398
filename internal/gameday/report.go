package gameday

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// report is what is told of the game. Its fields are the last line with -json.
type report struct {
	Faults           int  `json:"faults"`
	Recovered        int  `json:"recovered"`
	WrongCause       int  `json:"wrong_cause"`
	Disturbed        int  `json:"disturbed"`
	Orphans          int  `json:"orphans"`
	LostLines        int  `json:"lost_lines"`
	GoroutinesLeaked int  `json:"goroutines_leaked"`
	OK               bool `json:"ok"`

	out     io.Writer
	lines   int
	broken  bool
	headed  bool
	leftOut []string
}

func newReport(out io.Writer) *report { return &report{out: out} }

const rowFormat = "%-44s %-4s %-28s %-24s %9s  %s\n"

func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// leaveOut tells of a fault that cannot be injected here.
func (r *report) leaveOut(name, why string) { r.leftOut = append(r.leftOut, name+": "+why) }

// add prints a row as soon as it is known, and what went wrong below it.
func (r *report) add(o outcome) {
	if !r.headed {
		r.headed = true
		fmt.Fprintf(r.out, rowFormat, "FAULT", "IN", "DETECTED BY", "CAUSE REPORTED", "RECOVERY", "OTHERS DISTURBED")
	}
	r.Faults++
	recovery := o.recovery.Round(time.Millisecond).String()
	if o.err != nil {
		recovery = "never"
	} else {
		r.Recovered++
	}
	r.WrongCause += o.wrong
	r.Disturbed += len(o.disturbed)
	r.Orphans += len(o.orphans)
	fmt.Fprintf(r.out, rowFormat, o.fault, o.victim, clip(o.detected, 28), clip(o.cause, 24), recovery, fmt.Sprint(len(o.disturbed)))
	if o.err != nil {
		r.say("    %s: %v", o.victim, o.err)
	}
	if o.wrong > 0 {
		r.say("    %s: %d runs ended by a wrong cause", o.victim, o.wrong)
	}
	for _, d := range o.disturbed {
		r.say("    disturbed: %s", d)
	}
	for _, p := range o.orphans {
		r.say("    orphan: %s", p)
	}
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n-3] + "..."
	}
	return s
}

// takeEnd adds what was found when all was over.
func (r *report) takeEnd(e end) {
	r.lines = e.lines
	r.Orphans += len(e.orphans)
	r.LostLines = e.missing
	for _, p := range e.orphans {
		r.say("left alive: %s", p)
	}
	for _, l := range e.lost {
		r.say("lost: %s", l)
	}
	if e.err != nil {
		r.fail(e.err)
	}
}

// fail reports that the game itself could not be played to its end.
func (r *report) fail(err error) {
	r.broken = true
	r.say("broken off: %v", err)
}

func (r *report) conclude() {
	r.OK = !r.broken && r.Faults > 0 && r.Recovered == r.Faults &&
		r.WrongCause+r.Disturbed+r.Orphans+r.LostLines+r.GoroutinesLeaked == 0
	for _, l := range r.leftOut {
		r.say("left out: %s", l)
	}
	r.say("%d lines were acknowledged", r.lines)
}

func (r *report) writeJSON(w io.Writer) error {
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("the report: %w", err)
	}
	_, err = fmt.Fprintln(w, string(line))
	return err
}

func (r *report) writeText(w io.Writer) error {
	verdict := "It held."
	if !r.OK {
		verdict = "It did NOT hold."
	}
	_, err := fmt.Fprintf(w, "%s %d faults, %d recovered, %s\n", verdict, r.Faults, r.Recovered, strings.Join([]string{
		fmt.Sprintf("%d wrong causes", r.WrongCause), fmt.Sprintf("%d disturbed", r.Disturbed),
		fmt.Sprintf("%d orphans", r.Orphans), fmt.Sprintf("%d lost lines", r.LostLines),
		fmt.Sprintf("%d goroutines leaked", r.GoroutinesLeaked),
	}, ", "))
	return err
}
