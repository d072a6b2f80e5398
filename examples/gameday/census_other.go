//go:build !linux

package main

func (w *world) inhabitants() []inhabitant { return w.listed() }

// listed asks the fake, where the system cannot be asked.
func (w *world) listed() []inhabitant {
	if w.fake == nil {
		return nil
	}
	var out []inhabitant
	for _, p := range w.fake.Processes() {
		out = append(out, inhabitant{pid: p.PID(), parent: p.WatcherPID()})
	}
	return out
}
