package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/process"
)

// BinaryChecks remembers what binaries answered to the checks of New and Run, so that
// instances that share it execute a binary once for each set of flags, and again when its
// file has changed. An answer that was a failure is not kept, but those who wait for one at
// the same time share it. The zero value is ready for use. All methods are safe for
// concurrent use. A Runner has one for its instances.
type BinaryChecks struct {
	mu      sync.Mutex
	answers map[string]answer
	flights map[string]*flight
}

// WithBinaryChecks shares what is known of binaries with other instances.
func WithBinaryChecks(c *BinaryChecks) Option {
	return func(o *options) {
		if c == nil {
			o.problem(optionErrorf("WithBinaryChecks", "it is nil; leave the option out to share nothing"))
			return
		}
		o.checks = c
	}
}

// WithCheckContext ends the executions of the binary that New makes when ctx ends; New
// fails then. Without it they have the time of WithBinaryTimeout.
func WithCheckContext(ctx context.Context) Option {
	return func(o *options) {
		if ctx == nil {
			o.problem(optionErrorf("WithCheckContext", "the context is nil"))
			return
		}
		o.ctx = ctx
	}
}

// probe is an execution of a binary for what it prints.
type probe struct {
	path    string
	args    []string
	env     []string // of the host's own
	both    bool     // stderr counts too
	refuses bool     // exit code 1 is an answer, as gflags' is
	timeout time.Duration
}

// answer is what an execution printed, and how it ended.
type answer struct {
	out []byte
	err error
}

// flight is an execution under way.
type flight struct {
	done    chan struct{} // closed when answer is set
	answer  answer
	waiting int // guarded by the lock of BinaryChecks
	cancel  context.CancelFunc
}

// maxAnswers bounds what is remembered; a host has few sets of flags.
const maxAnswers = 1000

// flightEnds bounds the wait for an execution that nobody wants any more.
const flightEnds = 2 * time.Second

// run returns what is known already, or executes the binary, once at a time.
func (c *BinaryChecks) run(ctx context.Context, p probe) ([]byte, error) {
	file := identityOf(p.path)
	key := strings.Join(slices.Concat([]string{p.path, file, fmt.Sprint(p.both), fmt.Sprint(len(p.env))}, p.env, p.args), "\x00")
	a, f := c.join(key, file, p)
	if f == nil {
		return a.out, a.err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		c.leave(f)
		return nil, context.Cause(ctx)
	}
	return f.answer.out, f.answer.err
}

// join returns the answer, or the flight that brings it.
func (c *BinaryChecks) join(key, file string, p probe) (answer, *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.answers[key]; ok && file != "" {
		return a, nil
	}
	shared := key + "\x00" + p.timeout.String()
	if f := c.flights[shared]; f != nil && f.waiting > 0 {
		f.waiting++
		return answer{}, f
	}
	if c.flights == nil {
		c.flights, c.answers = map[string]*flight{}, map[string]answer{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{done: make(chan struct{}), waiting: 1, cancel: cancel}
	c.flights[shared] = f
	go func() { // it ends with the execution, which leave ends and joins
		defer close(f.done)
		defer cancel()
		f.answer = execute(ctx, p)
		c.land(key, shared, file, p, f)
	}()
	return answer{}, f
}

// land keeps an answer of a file that did not change meanwhile.
func (c *BinaryChecks) land(key, shared, file string, p probe, f *flight) {
	keep := p.settles(f.answer.err) && file != "" && identityOf(p.path) == file
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[shared] == f {
		delete(c.flights, shared)
	}
	if !keep {
		return
	}
	if len(c.answers) >= maxAnswers {
		clear(c.answers)
	}
	c.answers[key] = f.answer
}

// leave is for who does not wait any more. The last one ends the execution.
func (c *BinaryChecks) leave(f *flight) {
	c.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	c.mu.Unlock()
	if !last {
		return
	}
	f.cancel()
	timer := time.NewTimer(flightEnds)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C: // the system does not let go of it
	}
}

// settles says whether an execution that ended so was answered for good.
func (p probe) settles(err error) bool {
	exit, ok := errors.AsType[exitStatus](err)
	return err == nil || ok && p.refuses && exit.Code == 1
}

const (
	// maxProbeOutput is some hundred times what a help text takes, in bytes.
	maxProbeOutput = 4 << 20
	// probeKillWait bounds the wait for the end of an execution that was killed.
	probeKillWait = 5 * time.Second
)

// exitStatus says that an execution ended otherwise than with 0.
type exitStatus process.Exit

func (e exitStatus) Error() string {
	if e.Signal != "" {
		return "it was ended by " + e.Signal
	}
	return "exit status " + strconv.Itoa(e.Code)
}

// execute runs a binary for what it prints. It is bounded in time and size, because a sanity check under a virus scanner
// has been seen to hang, and leaves no process behind, whatever the binary is and starts.
func execute(ctx context.Context, p probe) answer {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("%w within %v", errBinarySlow, p.timeout))
	defer cancel()
	var out bytes.Buffer // complete, and ours to read, when the child has exited
	keep := func(line []byte) {
		out.Write(line)
		out.WriteByte('\n')
	}
	spec := process.Spec{Path: p.path, Args: append([]string{p.path}, p.args...), Env: environ(p.env), MaxOutput: maxProbeOutput}
	if p.both {
		spec.Output = keep
	} else {
		spec.Stdout = keep
	}
	child, err := process.Start(ctx, spec)
	if err != nil {
		return answer{err: err}
	}
	select {
	case <-child.Exited():
	case <-ctx.Done():
		return answer{err: errors.Join(context.Cause(ctx), endProbe(child))}
	}
	switch exit := child.Exit(); {
	case exit.TooMuchOutput:
		return answer{err: fmt.Errorf("it printed more than %d MiB", maxProbeOutput>>20)}
	case exit.Err != nil:
		err = exit.Err
	case exit.Code != 0:
		err = exitStatus(exit)
	}
	return answer{out.Bytes(), err}
}

// endProbe kills an execution and all it started.
func endProbe(child *process.Process) error {
	err := child.KillGroup()
	timer := time.NewTimer(probeKillWait)
	defer timer.Stop()
	select {
	case <-child.Exited():
		return err
	case <-timer.C:
		return errors.Join(err, fmt.Errorf("process %d does not end although it was killed", child.PID()))
	}
}
