package stats

import (
	"encoding/json"
	"testing"
)

func TestSummarizeReasons(t *testing.T) {
	for _, c := range []struct {
		state State
		err   string
		want  string
	}{
		{StateReady, "of before", ""},
		{StateIdle, "of before", "idle"},
		{StateStarting, "of before", "starting"},
		{StateUnhealthy, "a\nb", "unhealthy: a b"},
		{StateStopping, "", "stopping"},
		{StateBackoff, "exit", "backoff: exit"},
		{StateParked, "no binary", "parked: no binary"},
		{StateStopped, "", "stopped"},
	} {
		s := Summarize([]Snapshot{{Instance: "a", State: c.state, LastError: c.err}})
		healthy := c.want == ""
		want := InstanceHealth{ID: "a", State: c.state, Healthy: healthy, Reason: c.want}
		if s.Healthy != healthy || len(s.Instances) != 1 || s.Instances[0] != want || s.States[c.state] != 1 {
			t.Errorf("%s: %+v, want %+v", c.state, s, want)
		}
		if (s.Err() == nil) != healthy {
			t.Errorf("%s: Err() = %v", c.state, s.Err())
		}
	}
}

func TestSummarizeNothingIsHealthy(t *testing.T) {
	s := Summarize(nil)
	out, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"healthy":true,"instances":[],"states":{}}`; string(out) != want || s.Err() != nil {
		t.Errorf("%s, %v; want %s", out, s.Err(), want)
	}
}
