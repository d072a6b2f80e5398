package delivery

import (
	"sync"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// drops adds up lost lines until somebody has time to announce them: an observer
// must not hold up osqueryd's logger.
type Drops struct {
	mu   sync.Mutex
	Lost map[dropKey]stats.LogsDropped
	more []func(stats.Head) stats.Event // other news of queues
}

type dropKey struct {
	queue  extension.Queue
	reason string
}

// add notes lost lines.
func (d *Drops) add(queue extension.Queue, reason string, lines, bytes uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.Lost == nil {
		d.Lost = map[dropKey]stats.LogsDropped{}
	}
	k := dropKey{queue, reason}
	e := d.Lost[k]
	e.Lines += lines
	e.Bytes += bytes
	d.Lost[k] = e
}

// tell keeps an event until there is time to announce it.
func (d *Drops) Defer(event func(stats.Head) stats.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.more = append(d.more, event)
}

// any tells whether there is something to announce.
func (d *Drops) Any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.Lost) > 0 || len(d.more) > 0
}

// announce tells the host what was lost since the last call.
func (d *Drops) Announce(say *guard.Announcer) {
	d.mu.Lock()
	lost, more := d.Lost, d.more
	d.Lost, d.more = nil, nil
	d.mu.Unlock()
	for _, e := range more {
		say.Announce(e)
	}
	for k, e := range lost {
		say.Announce(func(h stats.Head) stats.Event {
			e.Head, e.Queue, e.Reason = h, string(k.queue), k.reason
			return e
		})
	}
}
