package stats

import (
	"fmt"
	"strings"
)

// Summary is the one answer a health endpoint needs.
type Summary struct {
	// Healthy is true when every instance is; an empty set is healthy.
	Healthy bool `json:"healthy"`
	// Instances are in the order of the snapshots; never nil.
	Instances []InstanceHealth `json:"instances"`
	// States counts the instances in each state; states with none are left out.
	States map[State]int `json:"states"`
}

// InstanceHealth is what a Summary says of one instance.
type InstanceHealth struct {
	ID    string `json:"id"`
	State State  `json:"state"`
	// Healthy is true in StateReady alone.
	Healthy bool `json:"healthy"`
	// Reason is why it is not healthy, in one line: its state and, unless it is
	// idle or starting, the last error. Empty when it is healthy.
	Reason string `json:"reason,omitempty"`
}

// Summarize makes a Summary of what [Recorder.Snapshot] gave. It keeps nothing
// of its argument and may be called from anywhere.
func Summarize(snaps []Snapshot) Summary {
	s := Summary{
		Healthy:   true,
		Instances: make([]InstanceHealth, 0, len(snaps)),
		States:    make(map[State]int),
	}
	for i := range snaps {
		h := healthOf(&snaps[i])
		s.Instances = append(s.Instances, h)
		s.States[h.State]++
		s.Healthy = s.Healthy && h.Healthy
	}
	return s
}

// Err is nil when the set is healthy. Otherwise it is one line that names every
// instance that is not, and why.
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
	h := InstanceHealth{ID: s.Instance, State: s.State, Healthy: s.State == StateReady}
	if !h.Healthy {
		h.Reason = reasonOf(s)
	}
	return h
}

func reasonOf(s *Snapshot) string {
	// The last error of one that is on its way up is about an earlier run.
	if s.LastError == "" || s.State == StateStarting || s.State == StateIdle {
		return string(s.State)
	}
	return string(s.State) + ": " + strings.Join(strings.Fields(s.LastError), " ")
}
