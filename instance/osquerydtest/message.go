package osquerydtest

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// message is what a Fake and its processes tell each other, as lines of JSON
// over a Unix socket in the fake's directory.
type message struct {
	ID      int       `json:"id,omitempty"`      // of a command, and of its answer
	Hello   *identity `json:"hello,omitempty"`   // process: first
	Welcome *identity `json:"welcome,omitempty"` // Fake: the answer; numbers the run
	Phase   Phase     `json:"phase,omitempty"`   // process: passed,
	Reached bool      `json:"reached,omitempty"` // or only reached: rules act now
	Cmd     string    `json:"cmd,omitempty"`     // Fake: do
	Action  *Action   `json:"action,omitempty"`
	Names   []string  `json:"names,omitempty"`
	Lines   []string  `json:"lines,omitempty"`
	Stats   *Stats    `json:"stats,omitempty"`
	Err     string    `json:"err,omitempty"`
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

// dialFake says hello and learns the numbers of run and worker.
func dialFake(p *process) *link {
	conn, err := dialUnix(filepath.Join(p.dir, controlName), helloTimeout)
	if err != nil {
		return nil
	}
	l := &link{conn: conn, dec: json.NewDecoder(conn), enc: json.NewEncoder(conn), done: make(chan struct{})}
	_ = conn.SetReadDeadline(time.Now().Add(helloTimeout))
	l.send(&message{Hello: &p.id})
	var m message
	if err := l.dec.Decode(&m); err != nil || m.Welcome == nil {
		_ = conn.Close()
		return nil
	}
	_ = conn.SetReadDeadline(time.Time{})
	p.id.Run, p.id.Worker = m.Welcome.Run, m.Welcome.Worker
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
func (l *link) serve(p *process) {
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
			l.work.Add(1)
			go l.do(p, m)
		}
	}()
}

func (l *link) do(p *process, m *message) {
	defer l.work.Done()
	if m.Cmd == cmdAct && m.Action != nil {
		// A hang must not hold the answer back: it is in force once set.
		if m.Action.Do == Hang {
			p.gate.set(gateAll)
		} else if err := p.command(*m.Action); err != nil {
			m.Err = err.Error()
		}
		l.send(&message{ID: m.ID, Err: m.Err})
		return
	}
	answer, ok := p.role.command(m)
	if !ok {
		answer = &message{Err: m.Cmd + " cannot be done by a " + string(p.id.Role)}
	}
	answer.ID = m.ID
	l.send(answer)
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

// command does an action now, and tells what went wrong.
func (p *process) command(a Action) error {
	switch a.Do {
	case DeleteSocket, DropRegistration, CloseConnections, WatchdogMemory, WatchdogCPU:
		return p.role.act(a)
	case Reset, Rubbish, Truncate, Huge, Refuse:
		return fmt.Errorf("%s shapes an answer: give it to a Rule", a)
	}
	if !slices.Contains(kinds, a.Do) {
		return fmt.Errorf("unknown action %q", a.Do)
	}
	p.act(a)
	return nil
}

// dialUnix gives up after the timeout.
func dialUnix(path string, timeout time.Duration) (net.Conn, error) {
	return (&net.Dialer{Timeout: timeout}).DialContext(noContext(), "unix", path)
}
