package gameday

import (
	"context"
	"fmt"
	"time"
)

// inhabitant is a process of the osqueryd of this game.
type inhabitant struct {
	pid    int
	run    string // id of its run, from its environment; empty when that is not known
	parent int    // the watcher of a worker, where the run is not known
}

func (i inhabitant) String() string { return fmt.Sprintf("pid %d of run %q", i.pid, i.run) }

// strayPatience is how long a process may take to go when its run is over.
const strayPatience = 2 * time.Second

// strays returns the processes that belong to no current run, and do not go either.
func (w *world) strays(ctx context.Context) []string {
	end := time.Now().Add(strayPatience)
	for {
		var out []string
		for _, p := range w.inhabitants() {
			if !w.belongs(p) {
				out = append(out, p.String())
			}
		}
		if len(out) == 0 || time.Now().After(end) {
			return out
		}
		pause(ctx, 20*time.Millisecond)
	}
}

// belongs reports whether a process is part of a current run.
func (w *world) belongs(p inhabitant) bool {
	for _, id := range w.runner.IDs() {
		in, err := w.runner.Instance(id)
		if err != nil {
			continue
		}
		if p.run != "" && p.run == in.RunID() {
			return true
		}
		if pid := in.PID(); p.run == "" && pid != 0 && (pid == p.pid || pid == p.parent) {
			return true
		}
	}
	return false
}

// leftAlive is asked when nothing should be: there is nothing to wait for.
func (w *world) leftAlive() []string {
	var out []string
	for _, p := range w.inhabitants() {
		out = append(out, p.String())
	}
	return out
}
