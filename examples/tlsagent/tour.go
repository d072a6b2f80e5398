package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/soak"
)

const (
	// stepTimeout bounds each step: a real osqueryd on a busy machine needs some seconds.
	stepTimeout = 60 * time.Second
	lookEvery   = 50 * time.Millisecond
)

var (
	// errInterrupted says that Ctrl-C came before the tour was over.
	errInterrupted = errors.New("interrupted")
	// errAgentGone says that the agent ended although nobody asked it to.
	errAgentGone = errors.New("the agent has ended by itself")
)

// stage is what both tours are made of.
type stage struct {
	tale   *tale
	book   *book
	agent  *child
	orders orders
	length time.Duration
	begin  time.Time
}

// tour does what the flags say, and reports.
func tour(ctx context.Context, s settings, t *tale) (rep *report, err error) {
	rep = &report{}
	temporary, err := os.MkdirTemp("", "osqv")
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temporary)) }()
	root := cmp.Or(s.root, filepath.Join(temporary, "root"))
	if root, err = filepath.Abs(root); err != nil {
		return rep, err
	}
	// The fake waits a fifth of what osqueryd waits by itself.
	osqueryd, err := osquerydtest.Find(ctx, s.osqueryd, osquerydtest.WithScript(osquerydtest.Script{TimeScale: 0.2}))
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, osqueryd.Close()) }()
	t.say("%s", osqueryd.From)
	st := &stage{tale: t, book: newBook(time.Now()), length: s.length, begin: time.Now()}
	st.orders = orders{Server: s.server, CA: s.ca, SecretPath: s.secretPath, Osqueryd: osqueryd.Path, Root: root}
	if s.server != "" {
		return rep, st.quiet(ctx, rep)
	}
	srv, err := newServer(temporary)
	if err != nil {
		return rep, err
	}
	defer srv.Close()
	st.orders.Server, st.orders.CA, st.orders.SecretPath = srv.URL(), srv.ca, srv.secretPath
	return rep, (&scenario{stage: st, srv: srv}).play(ctx, rep)
}

// quiet is the tour on a server of the user's: nothing is killed or taken away.
func (st *stage) quiet(ctx context.Context, rep *report) error {
	arrived := func(id string) []soak.Batch { return st.book.page(id).batches }
	err := st.startAgent(ctx)
	if err == nil {
		err = st.wait(ctx, "logs nothing", func(_ string, p page) bool { return len(p.acked) > 0 })
	}
	if err == nil {
		_ = st.pause(ctx, 1) // Ctrl-C is as good an end as any
		err = st.settle(context.WithoutCancel(ctx), arrived)
	}
	err = errors.Join(err, st.stopAgent())
	rep.count(st.book.judge(arrived))
	for _, id := range instanceNames() {
		p := st.book.page(id)
		rep.Queries += p.results
		rep.Reenrolments += p.reenrolment
	}
	return err
}

// startAgent returns when all instances are ready.
func (st *stage) startAgent(ctx context.Context) error {
	before := st.counts(func(p page) int { return p.ready })
	o := st.orders
	o.From = st.book.next()
	agent, err := startChild(o, st.book)
	if err != nil {
		return err
	}
	st.agent = agent
	return st.wait(ctx, "is not ready", func(id string, p page) bool { return p.ready > before[id] })
}

// counts gives something of every instance as it is now.
func (st *stage) counts(what func(page) int) map[string]int {
	now := map[string]int{}
	for _, id := range instanceNames() {
		now[id] = what(st.book.page(id))
	}
	return now
}

func (st *stage) stopAgent() error {
	if st.agent == nil {
		return nil
	}
	st.tale.say("the agent is stopped")
	return st.agent.stop()
}

// settle ends the numbers, and waits until all that osqueryd was told is stored has
// arrived. A line that does not arrive in time is judged as lost.
func (st *stage) settle(ctx context.Context, arrived func(string) []soak.Batch) error {
	st.tale.say("no more lines are made; the rest is delivered")
	if err := st.agent.order(orders{Pause: true}); err != nil {
		return err
	}
	err := st.wait(ctx, "did not log its last lines", func(_ string, p page) bool { return p.settled })
	if err != nil {
		return err
	}
	return st.look(ctx, "not everything arrived", func() bool { return st.book.judge(arrived).Lost == 0 })
}

// wait waits for the book, as long as a step may take and the agent lives.
func (st *stage) wait(ctx context.Context, what string, done func(id string, p page) bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	return st.book.wait(ctx, st.agent.read, what, done)
}

// look waits for the server, as long as a step may take.
func (st *stage) look(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// pause waits until a part of -for is over.
func (st *stage) pause(ctx context.Context, part float64) error {
	timer := time.NewTimer(time.Until(st.begin.Add(time.Duration(part * float64(st.length)))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errInterrupted
	}
}
