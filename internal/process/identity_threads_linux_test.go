package process

import (
	"os"
	"testing"
)

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

func TestEnding(t *testing.T) {
	for flags, want := range map[string]bool{"4": true, "4194308": true, "4194304": false, "0": false, "x": false} {
		if got := exiting([]byte("42 (a (b) c) R 1 42 42 0 -1 " + flags + " 0 0")); got != want {
			t.Errorf("flags %s: %v", flags, got)
		}
	}
	spec := roleSpec("exit:0", nil)
	child, err := os.StartProcess(spec.Path, spec.Args, &os.ProcAttr{Env: spec.Env})
	if err != nil {
		t.Fatal(err)
	}
	if err := awaitEnd(child, Identity{}); err != nil {
		t.Fatal(err)
	}
	if ended := ending(child.Pid); !ended || ending(os.Getpid()) {
		t.Errorf("a zombie is ending: %v; and this process: %v", ended, ending(os.Getpid()))
	}
	if _, err := child.Wait(); err != nil {
		t.Fatal(err)
	}
}
