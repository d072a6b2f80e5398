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
	more []func(stats.Head) stats.Event // other news of queues
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

// tell keeps an event until there is time to announce it.
func (d *drops) tell(event func(stats.Head) stats.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.more = append(d.more, event)
}

// any tells whether there is something to announce.
func (d *drops) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.lost) > 0 || len(d.more) > 0
}

// announce tells the host what was lost since the last call.
func (d *drops) announce(say *announcer) {
	d.mu.Lock()
	lost, more := d.lost, d.more
	d.lost, d.more = nil, nil
	d.mu.Unlock()
	for _, e := range more {
		say.say(e)
	}
	for k, e := range lost {
		say.say(func(h stats.Head) stats.Event {
			e.Head, e.Queue, e.Reason = h, string(k.queue), k.reason
			return e
		})
	}
}
