package extension

import (
	"sync"

	"github.com/osqvisor/osqvisor/stats"
)

// drops adds up lost lines until somebody has time to announce them: an observer
// must not hold up osqueryd's logger.
type drops struct {
	mu   sync.Mutex
	lost map[dropKey]stats.LogsDropped
}

type dropKey struct {
	queue  Queue
	reason string
}

// add notes lost lines.
func (d *drops) add(queue Queue, reason string, lines, bytes uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lost == nil {
		d.lost = map[dropKey]stats.LogsDropped{}
	}
	k := dropKey{queue, reason}
	e := d.lost[k]
	e.Lines += lines
	e.Bytes += bytes
	d.lost[k] = e
}

// any tells whether there is something to announce.
func (d *drops) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lost) > 0
}

// announce tells the host what was lost since the last call.
func (d *drops) announce(say *announcer) {
	d.mu.Lock()
	lost := d.lost
	d.lost = nil
	d.mu.Unlock()
	for k, e := range lost {
		say.say(func(h stats.Head) stats.Event {
			e.Head, e.Queue, e.Reason = h, string(k.queue), k.reason
			return e
		})
	}
}
