package delivery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// Drops adds up lost lines until somebody has time to announce them: an observer
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

// Defer keeps an event until there is time to announce it.
func (d *Drops) Defer(event func(stats.Head) stats.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.more = append(d.more, event)
}

// Any reports whether there is something to announce.
func (d *Drops) Any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.Lost) > 0 || len(d.more) > 0
}

// Announce announces what was lost since the last call.
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

// DeadLetters keeps batches that the server refused for good, for a person to
// look at: a header line of JSON, then the lines as they are. Two files take
// turns, each at most half of the limit, so the newest batches stay. Only the
// holder of the shipper's slot uses it.
type DeadLetters struct {
	Path  string
	limit int64
}

// deadHeader is the line before a batch's lines.
type deadHeader struct {
	Batch string    `json:"batch"`
	Lines int       `json:"lines"`
	Bytes int       `json:"bytes"`
	Error string    `json:"error"`
	Time  time.Time `json:"time"`
}

// NewDeadLetters returns those of a queue in an instance's directory, of at most so many bytes.
func NewDeadLetters(dir string, queue extension.Queue, limit int64) *DeadLetters {
	return &DeadLetters{Path: filepath.Join(dir, "queue", string(queue)+".dead"), limit: limit}
}

// Keep adds a batch. The error is why it was not kept.
func (d *DeadLetters) Keep(b extension.Batch, cause error) error {
	header, err := json.Marshal(deadHeader{
		Batch: b.ID, Lines: len(b.Lines), Bytes: b.Bytes, Error: cause.Error(), Time: time.Now().UTC(),
	})
	if err != nil {
		return fmt.Errorf("dead letter %s: %w", b.ID, err)
	}
	size := int64(len(header)) + 1 + int64(b.Bytes+len(b.Lines))
	if size > d.limit/2 {
		return fmt.Errorf("dead letter %s: its %d bytes are more than the %d kept for one", b.ID, size, d.limit/2)
	}
	if err := d.turn(size); err != nil {
		return fmt.Errorf("dead letter %s: %w", b.ID, err)
	}
	return d.write(append(header, '\n'), b)
}

// turn begins a new file when the current one has no room for size bytes.
func (d *DeadLetters) turn(size int64) error {
	info, err := os.Stat(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.Size()+size <= d.limit/2 {
		return err
	}
	return os.Rename(d.Path, d.Path+".1")
}

// torn reports whether the last letter does not end its line: the disk was full, or the
// host was killed.
func torn(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return false
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

func (d *DeadLetters) write(header []byte, b extension.Batch) error {
	f, err := os.OpenFile(d.Path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("dead letter %s: %w", b.ID, err)
	}
	if torn(f) {
		header = append([]byte{'\n'}, header...)
	}
	_, err = f.Write(header)
	if err == nil {
		_, err = b.WriteTo(f)
	}
	return errors.Join(err, f.Close())
}
