package plugin

import (
	"fmt"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// What a server says of an enrolment is no verdict on the logs that wait for it.
func TestRefusedEnrolmentCostsNoLogs(t *testing.T) {
	for name, verdict := range map[string]error{
		"permanent": extension.ErrPermanent, "too large": extension.ErrTooLarge,
	} {
		t.Run(name, func(t *testing.T) {
			s := &sink{}
			r := newRig(t, t.TempDir(), withTransport(enrolling{
				Funcs:  extension.Funcs{LogsFunc: s.publish},
				enroll: func(extension.EnrollRequest) (string, error) { return "", fmt.Errorf("no such secret: %w", verdict) },
			}))
			r.logLines(3)
			if err := r.Flush(t.Context()); err == nil {
				t.Error("delivered without a node key")
			}
			equal(t, "lines that wait", r.Pending()[string(extension.QueueResults)], 3)
			equal(t, "lines given up", len(eventsOf[stats.LogsDropped](r)), 0)
		})
	}
}

// A transport that says that there is no enrolment gets its calls without a key.
func TestNoEnrolmentNeedsNoKey(t *testing.T) {
	s, asked := &sink{}, 0
	r := newRig(t, t.TempDir(), withTransport(enrolling{
		Funcs: extension.Funcs{LogsFunc: s.publish},
		enroll: func(extension.EnrollRequest) (string, error) {
			asked++
			return "", fmt.Errorf("not here: %w", extension.ErrUnsupported)
		},
	}))
	for range 2 {
		r.logLines(3)
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "lines", len(s.lines()), 6)
	equal(t, "enrolments asked for", asked, 1)
	equal(t, "failures", len(eventsOf[stats.TransportFailed](r))+len(eventsOf[stats.Enrolled](r)), 0)
}
