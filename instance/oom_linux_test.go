package instance

import "testing"

func TestKernelKillsAreCounted(t *testing.T) {
	for events, want := range map[string]uint64{
		"low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 7\n": 2,
		"low 0\noom 3\n": 0,
		"oom_kill x\n":   0,
		"":               0,
	} {
		if got := oomKillsIn(events); got != want {
			t.Errorf("%q: %d, want %d", events, got, want)
		}
	}
}
