package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"
)

// A fork of some other goroutine can hold a freshly written binary open for a moment, so a busy one is tried again:
// 5 tries, 10, 20, 40 and 80 ms apart.
const (
	busyTries = 5
	busyPause = 10 * time.Millisecond
)

// Start starts a child in a process group of its own. Its standard input is empty. It returns when the child runs; from
// then on ctx means nothing to the child, and the caller must see it to its end (Terminate, KillGroup, Exited).
// When ctx ends while Start is under way, the child is killed and reaped before Start returns the cause of ctx.
// Every other error is a *StartError. After an error nothing is left: no process, goroutine or file.
// It is safe for concurrent use.
func Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := spec.validate(); err != nil {
		return nil, err
	}
	if spec.RunID == "" {
		spec.RunID = rand.Text()
	}
	if spec.DrainGrace == 0 {
		spec.DrainGrace = DefaultDrainGrace
	}
	p := &Process{spec: spec, exited: make(chan struct{})}
	started := make(chan error, 1)
	go p.own(ctx, started)
	if err := <-started; err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		err := p.KillGroup()
		<-p.exited
		return nil, errors.Join(cancelled(ctx), err)
	}
	return p, nil
}

func cancelled(ctx context.Context) error {
	return fmt.Errorf("start cancelled: %w", context.Cause(ctx))
}

// own is the life of the child's one goroutine. It keeps the thread, because Linux sends the parent-death signal when
// the thread that forked ends, not when the process does.
func (p *Process) own(ctx context.Context, started chan<- error) {
	unpin := pinThread()
	defer unpin()
	if err := p.launch(ctx); err != nil {
		started <- err
		return
	}
	for _, r := range p.readers() {
		go r.run()
	}
	started <- nil
	p.seeOut()
	p.drain()
	close(p.exited)
}

// seeOut waits for the end, and reaps. Between the two the child is a zombie that keeps its group number: the only
// moment at which what it left behind can be killed with certainty.
func (p *Process) seeOut() {
	err := awaitEnd(p.child, p.claim.leader)
	p.exit = Exit{Code: -1, Started: p.started, Ended: time.Now()}
	if err == nil && !p.spec.SpareGroup {
		p.exit.GroupErr = p.box.killGroup(p.claim.leader)
		collectOrphans(p.claim.leader)
	}
	p.mu.Lock()
	state, err := p.child.Wait()
	p.reaped = true
	p.mu.Unlock()
	p.box.release()
	if err != nil {
		p.exit.Err = fmt.Errorf("exit status of pid %d is lost, does the host wait for all children? %w", p.PID(), err)
		return
	}
	p.exit.Code = state.ExitCode()
	p.exit.Signal = signalName(state)
}

func (p *Process) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), p.spec.DrainGrace)
	defer cancel()
	for _, r := range p.readers() {
		r.finish(ctx)
	}
}

func (p *Process) readers() []*reader {
	if p.stderr == nil {
		return []*reader{p.stdout}
	}
	return []*reader{p.stdout, p.stderr}
}

// launch leaves either a child that is contained and identified, or nothing.
func (p *Process) launch(ctx context.Context) (err error) {
	wires, err := newWires(p.spec.Output != nil)
	if err != nil {
		return classify(&p.spec, err)
	}
	defer wires.closeChildEnds()
	box, err := newContainer(&p.spec)
	if err != nil {
		wires.closeHostEnds()
		return classify(&p.spec, err)
	}
	p.box = box
	if err = p.spawn(ctx, wires); err == nil {
		err = p.adopt()
	}
	if err != nil {
		box.release()
		wires.closeHostEnds()
		return err
	}
	p.connect(wires)
	return nil
}

func (p *Process) connect(wires *wires) {
	if p.spec.Output != nil {
		p.stdout = p.newReader(wires.out.host, p.spec.Output)
		return
	}
	p.stdout = p.newReader(wires.out.host, p.spec.Stdout)
	p.stderr = p.newReader(wires.err.host, p.spec.Stderr)
}

func (p *Process) newReader(pipe *os.File, sink func([]byte)) *reader {
	r := newReader(pipe, sink)
	r.limit = p.spec.MaxOutput
	r.over = func() { _ = p.KillGroup() } // what cannot be killed cannot be ended by its owner either
	return r
}

func (p *Process) spawn(ctx context.Context, wires *wires) error {
	attr := &os.ProcAttr{
		Dir:   p.spec.Dir,
		Env:   p.spec.environ(),
		Files: append(wires.childFiles(), p.box.childFiles()...),
		Sys:   p.box.sysAttr(&p.spec),
	}
	for try := 1; ; try++ {
		if ctx.Err() != nil {
			return cancelled(ctx)
		}
		p.started = time.Now()
		child, err := os.StartProcess(p.spec.Path, p.spec.Args, attr)
		if err == nil {
			p.child = child
			return nil
		}
		failed := classify(&p.spec, err)
		if !errors.Is(failed, ErrTextBusy) || try == busyTries {
			return failed
		}
		pause(ctx, busyPause<<(try-1))
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// adopt identifies and contains the new child. A child that could not be contained must not live.
func (p *Process) adopt() error {
	id, err := Identify(p.child.Pid)
	if err == nil {
		p.claim = claim{leader: id, binary: p.spec.Path, runID: p.spec.RunID}
		err = p.box.adopt(p.child, id)
	}
	if err == nil {
		return nil
	}
	killErr := p.child.Kill()
	_, waitErr := p.child.Wait()
	return &StartError{Path: p.spec.Path, Kind: ErrStart, Err: errors.Join(err, killErr, waitErr),
		Hint: "the child could not be identified or contained"}
}
