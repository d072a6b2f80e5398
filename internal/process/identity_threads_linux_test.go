package process

import "testing"

// A process whose first thread is dead is alive while another thread is left.
func TestZombieLeaderWithThreadsIsAlive(t *testing.T) {
	line := func(state, threads string) []byte {
		return []byte("42 (a (b) c) " + state + " 1 42 42 0 -1 4 0 0 0 0 0 0 0 0 20 0 " + threads + " 0 12345 0 0")
	}
	for _, tt := range []struct {
		state, threads string
		dead           bool
	}{{"Z", "1", true}, {"Z", "0", true}, {"Z", "2", false}, {"Z", "17", false}, {"X", "1", true}, {"S", "1", false}} {
		info, err := parseStat("boot", 42, line(tt.state, tt.threads))
		if err != nil {
			t.Fatal(err)
		}
		if info.zombie != tt.dead || info.id.StartTime != "boot:12345" {
			t.Errorf("state %s with %s threads: %+v", tt.state, tt.threads, info)
		}
	}
}
