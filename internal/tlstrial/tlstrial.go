// Package tlstrial is the engine of examples/tlsagent: it starts the agent, knows which lines
// were acknowledged to osqueryd (book.go), plays the server (server.go), makes the trouble
// (scenario.go) and judges.
package tlstrial

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/soak"
)

// The exit codes, beside 0.
const (
	ExitFailed = 1
	ExitUsage  = 2
)

const (
	// agentArgument makes the program the agent.
	agentArgument = "agent"
	// stepTimeout bounds each step: a real osqueryd on a busy machine needs some seconds.
	stepTimeout = 60 * time.Second
	lookEvery   = 50 * time.Millisecond
)

var (
	// ErrInterrupted reports that Ctrl-C came before the trial was over.
	ErrInterrupted = errors.New("interrupted")
	// ErrAgentGone reports that the agent ended although nobody stopped it.
	ErrAgentGone = errors.New("the agent has ended by itself")
)

// IsAgent reports whether the program was started as the agent: it reads Orders from stdin
// and writes Messages to stdout then.
func IsAgent(args []string) bool { return len(args) == 2 && args[1] == agentArgument }

// settings are the flags.
type settings struct {
	server, secretPath, ca string

	osqueryd string
	root     string
	length   time.Duration
	json     bool
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("tlsagent", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.server, "server", "", "the URL of a server (default: one of its own, with trouble)")
	flags.StringVar(&s.secretPath, "enroll-secret-path", "", "the file with the server's enroll secret")
	flags.StringVar(&s.ca, "ca", "", "a PEM file with the roots to trust, in place of the system's")
	flags.StringVar(&s.osqueryd, "osqueryd", "",
		"the osqueryd to run, or \"fake\" for the built-in one (default: $OSQUERYD, then PATH, then the built-in one)")
	flags.StringVar(&s.root, "root", "", "the directory for the instances' data, kept afterwards (default: a temporary one, removed)")
	flags.DurationVar(&s.length, "for", 30*time.Second, "how long to produce lines; what is begun is always finished")
	flags.BoolVar(&s.json, "json", false, "end with one line of JSON on stdout; everything else goes to stderr")
	if err := flags.Parse(args); err != nil {
		return s, fmt.Errorf("flags: %w", err)
	}
	err := s.check(flags.Args())
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return s, err
}

func (s settings) check(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q; see -help", rest[0])
	case s.length < 0:
		return fmt.Errorf("-for %v is negative; set a time such as 30s", s.length)
	case s.server != "" && s.secretPath == "":
		return errors.New("-server needs -enroll-secret-path, the file with its enroll secret")
	case s.server == "" && (s.secretPath != "" || s.ca != ""):
		return errors.New("-enroll-secret-path and -ca are for -server, which is not set")
	}
	return nil
}

// Main runs a trial with the command line args, and returns the exit code of the program:
// 0 when all is as it should be, 1 when it is not, 2 for wrong flags. The agent is the
// program itself, started again: see IsAgent.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return ExitUsage
	}
	out := stdout
	if s.json {
		out = stderr // stdout is for programs then
	}
	rep, err := runTrial(ctx, s, newProgress(out))
	rep.conclude(err)
	if err != nil {
		fmt.Fprintln(stderr, "tlsagent:", err)
	}
	if err := rep.write(stdout, s.json); err != nil || !rep.OK {
		return ExitFailed
	}
	return 0
}

// stage is what both trials are made of.
type stage struct {
	progress *progress
	book     *book
	agent    *child
	orders   Orders
	length   time.Duration
	begin    time.Time
}

// runTrial returns what it measured even when it fails.
func runTrial(ctx context.Context, s settings, p *progress) (rep *Report, err error) {
	rep = &Report{}
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
	p.line("%s", osqueryd.From)
	st := &stage{progress: p, book: newBook(time.Now()), length: s.length, begin: time.Now()}
	st.orders = Orders{Server: s.server, CA: s.ca, SecretPath: s.secretPath, Osqueryd: osqueryd.Path, Root: root}
	if s.server != "" {
		return rep, st.quiet(ctx, rep)
	}
	srv, err := NewServer(temporary)
	if err != nil {
		return rep, err
	}
	defer srv.Close()
	st.orders.Server, st.orders.CA, st.orders.SecretPath = srv.URL(), srv.CA, srv.SecretPath
	return rep, (&scenario{stage: st, srv: srv}).play(ctx, rep)
}

// quiet is the trial on a server of the user's: nothing is killed or taken away.
func (st *stage) quiet(ctx context.Context, rep *Report) error {
	arrived := func(id string) []soak.Batch { return st.book.page(id).batches }
	err := st.startAgent(ctx)
	if err == nil {
		err = st.wait(ctx, "logs nothing", func(_ string, p page) bool { return len(p.acked) > 0 })
	}
	if err == nil {
		_ = st.pause(ctx, 1) // Ctrl-C is as good an end as any
		err = st.drain(context.WithoutCancel(ctx), arrived)
	}
	err = errors.Join(err, st.stopAgent())
	rep.count(st.book.judge(arrived))
	for _, id := range Names() {
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

// counts returns something of every instance as it is now.
func (st *stage) counts(what func(page) int) map[string]int {
	now := map[string]int{}
	for _, id := range Names() {
		now[id] = what(st.book.page(id))
	}
	return now
}

func (st *stage) stopAgent() error {
	if st.agent == nil {
		return nil
	}
	st.progress.line("the agent is stopped")
	return st.agent.stop()
}

// drain ends the numbers, and waits until every line that was acknowledged has arrived.
// A line that does not arrive in time is judged as lost.
func (st *stage) drain(ctx context.Context, arrived func(string) []soak.Batch) error {
	st.progress.line("no more lines are made; the rest is delivered")
	if err := st.agent.order(Orders{Pause: true}); err != nil {
		return err
	}
	err := st.wait(ctx, "did not log its last lines", func(_ string, p page) bool { return p.drained })
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
		return ErrInterrupted
	}
}
