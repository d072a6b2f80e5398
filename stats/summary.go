package stats

import (
	"fmt"
	"strings"
	"time"
)

// Summary is the answer of a health endpoint.
type Summary struct {
	// Healthy is true when every instance is; an empty set is healthy.
	Healthy bool `json:"healthy"`
	// Degraded is true when nothing is wrong but degraded instances; a restart does not help.
	Degraded bool `json:"degraded,omitempty"`
	// Instances are in the order of the snapshots; never nil.
	Instances []InstanceHealth `json:"instances"`
	// States counts the instances in each state that occurs.
	States map[State]int `json:"states"`
}

// InstanceHealth is the part of a Summary about one instance.
type InstanceHealth struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Healthy is true in StateReady alone, and when the instance is not degraded.
	Healthy bool `json:"healthy"`
	// Degraded is true when it is ready and not well served: not enrolled, configured from
	// the last good config, without distributed queries, or delivering late.
	Degraded bool `json:"degraded,omitempty"`
	// Reason is why it is not healthy, in one line; empty when it is healthy.
	Reason string `json:"reason,omitempty"`
}

// Summarize returns a Summary of snapshots. It keeps nothing of its argument.
func Summarize(snaps []Snapshot) Summary {
	s := Summary{
		Healthy:   true,
		Instances: make([]InstanceHealth, 0, len(snaps)),
		States:    make(map[State]int),
	}
	worse := false
	for i := range snaps {
		h := healthOf(&snaps[i])
		s.Instances = append(s.Instances, h)
		s.States[h.State]++
		s.Healthy = s.Healthy && h.Healthy
		worse = worse || !h.Healthy && !h.Degraded
	}
	s.Degraded = !s.Healthy && !worse
	return s
}

// Err returns nil when the set is healthy, or one line that names every instance that is
// not, and why.
func (s Summary) Err() error {
	if s.Healthy {
		return nil
	}
	var sick []string
	for _, h := range s.Instances {
		if !h.Healthy {
			sick = append(sick, h.ID+" ("+h.Reason+")")
		}
	}
	return fmt.Errorf("%d of %d instances not healthy: %s",
		len(sick), len(s.Instances), strings.Join(sick, ", "))
}

func healthOf(s *Snapshot) InstanceHealth {
	h := InstanceHealth{ID: s.Instance, State: s.State}
	if s.State != StateReady {
		h.Reason = reasonOf(s)
		return h
	}
	h.Reason = strings.Join(degradedBy(s), "; ")
	h.Healthy, h.Degraded = h.Reason == "", h.Reason != ""
	return h
}

const (
	// lateAfter is the age from which lines that are being refused are late.
	lateAfter = time.Minute
	// behindAfter is the age from which lines are late whatever the reason.
	behindAfter = 2 * time.Hour
	// failedCalls is how many failures in a row are more than bad luck.
	failedCalls = 3
)

// degradedBy returns what is wrong with an instance that is ready.
func degradedBy(s *Snapshot) []string {
	var out []string
	for _, c := range s.Calls {
		switch {
		case c.Call == "enroll" && c.Tries > 0:
			out = append(out, "not enrolled: "+inOneLine(c.LastError))
		case c.Call == "config" && c.Tries > 0:
			out = append(out, "configured from the last good config, if from any: "+inOneLine(c.LastError))
		case c.Call == "queries" && c.Tries >= failedCalls:
			out = append(out, "no distributed queries: "+inOneLine(c.LastError))
		}
	}
	for _, q := range s.Queues {
		if q.late() {
			reason := fmt.Sprintf("delivering late: %s has %d waiting, the oldest for %v", q.Queue, q.Lines, q.Age.Truncate(time.Second))
			if q.Tries > 0 {
				reason += ": " + inOneLine(q.LastError)
			}
			out = append(out, reason)
		}
	}
	return out
}

func (q *QueueState) late() bool {
	if q.Lines == 0 {
		return false
	}
	return q.Tries >= failedCalls || q.Tries > 0 && q.Age > lateAfter || q.Age > behindAfter
}

func inOneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

func reasonOf(s *Snapshot) string {
	// The last error of one that is on its way up is about an earlier run.
	if s.LastError == "" || s.State == StateStarting || s.State == StateIdle {
		return string(s.State)
	}
	return string(s.State) + ": " + inOneLine(s.LastError)
}
