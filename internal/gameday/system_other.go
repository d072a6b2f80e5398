//go:build !linux

package gameday

import "errors"

// systemKillsOrphans reports that the kernel ends osqueryd with its host; here the next
// start does.
const systemKillsOrphans = false

func mountSmall(string) (unmount func() error, err error) {
	return nil, errors.New("a small file system can be mounted on Linux alone")
}

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
