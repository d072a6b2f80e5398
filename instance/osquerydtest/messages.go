package osquerydtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// message is what a Fake and its processes exchange, as lines of JSON
// over a Unix socket in the fake's directory.
type message struct {
	ID      int                    `json:"id,omitempty"`      // of a command, and of its answer
	Hello   *fakeosqueryd.Identity `json:"hello,omitempty"`   // process: first
	Welcome *fakeosqueryd.Identity `json:"welcome,omitempty"` // Fake: the answer; numbers the run
	Phase   Phase                  `json:"phase,omitempty"`   // process: passed,
	Reached bool                   `json:"reached,omitempty"` // or only reached: rules act now
	Cmd     string                 `json:"cmd,omitempty"`     // Fake: do
	Action  *Action                `json:"action,omitempty"`
	Names   []string               `json:"names,omitempty"`
	Lines   []string               `json:"lines,omitempty"`
	Stats   *Stats                 `json:"stats,omitempty"`
	Err     string                 `json:"err,omitempty"`
}

// The commands.
const (
	cmdAct         = "act"
	cmdEmit        = "emit"
	cmdStatus      = "status"
	cmdSchedule    = "schedule"
	cmdDistributed = "distributed"
	cmdRefresh     = "refresh"
	cmdStats       = "stats"
)

const (
	controlName  = "ctl"
	helloTimeout = 5 * time.Second
	writeTimeout = 2 * time.Second
)

// link is a process's end. A nil link does nothing: a fake works without its
// maker, too.
type link struct {
	conn net.Conn
	dec  *json.Decoder

	mu   sync.Mutex
	enc  *json.Encoder
	done chan struct{}
	work sync.WaitGroup
}

// dialFake connects to the Fake, which numbers the run and the worker.
func dialFake(p *fakeosqueryd.Process, dir string) *link {
	dialer := net.Dialer{Timeout: helloTimeout}
	conn, err := dialer.DialContext(context.Background(), "unix", filepath.Join(dir, controlName))
	if err != nil {
		return nil
	}
	l := &link{conn: conn, dec: json.NewDecoder(conn), enc: json.NewEncoder(conn), done: make(chan struct{})}
	_ = conn.SetReadDeadline(time.Now().Add(helloTimeout))
	id := p.ID()
	l.send(&message{Hello: &id})
	var m message
	if err := l.dec.Decode(&m); err != nil || m.Welcome == nil {
		_ = conn.Close()
		return nil
	}
	_ = conn.SetReadDeadline(time.Time{})
	p.SetNumbers(m.Welcome.Run, m.Welcome.Worker)
	return l
}

func (l *link) send(m *message) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_ = l.enc.Encode(m) // the maker may be gone
}

// serve answers commands until close.
func (l *link) serve(p *fakeosqueryd.Process) {
	if l == nil {
		return
	}
	go func() {
		defer close(l.done)
		for {
			m := new(message)
			if err := l.dec.Decode(m); err != nil {
				return
			}
			l.work.Go(func() { l.send(execute(p, m)) })
		}
	}()
}

func (l *link) close() {
	if l == nil {
		return
	}
	_ = l.conn.Close()
}

// join waits for what serve started; close first.
func (l *link) join() {
	if l == nil {
		return
	}
	<-l.done
	l.work.Wait()
}

// execute does what a test asks for, and returns the answer.
func execute(p *fakeosqueryd.Process, m *message) *message {
	answer := &message{ID: m.ID}
	var err error
	switch m.Cmd {
	case cmdAct:
		err = command(p, m.Action)
	case cmdStats:
		var got fakeosqueryd.Stats
		if got, err = p.Stats(); err == nil {
			stats := Stats(got)
			answer.Stats = &stats
		}
	case cmdEmit:
		err = p.Emit(m.Lines)
	case cmdStatus:
		err = p.EmitStatus(m.Lines)
	case cmdSchedule:
		err = p.RunSchedule(m.Names)
	case cmdDistributed:
		err = p.RunDistributed()
	case cmdRefresh:
		err = p.RefreshConfig()
	default:
		err = errors.New("unknown command")
	}
	if err != nil {
		answer.Err = err.Error()
	}
	return answer
}

// command does an action now, and returns what went wrong.
func command(p *fakeosqueryd.Process, a *Action) error {
	switch {
	case a == nil || !slices.Contains(kinds, a.Do):
		return fmt.Errorf("unknown action %v", a)
	case a.shapesAnswers():
		return fmt.Errorf("%s shapes an answer: put it into a Rule", a)
	case a.Do == Hang: // a hang must not hold the answer back: it is in force once set
		p.Hang()
		return nil
	}
	return act(p, *a)
}
