package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Process is a started child together with its process group (on Windows: its job object). All methods are safe for
// concurrent use, may be called from anywhere, at any time and any number of times, and do not block unless documented.
type Process struct {
	spec    Spec
	claim   claim
	child   *os.Process
	box     *container
	stdout  *reader // of both streams when Spec.Output is set
	stderr  *reader // nil then
	started time.Time

	exited chan struct{}
	exit   Exit // written before exited is closed

	mu     sync.Mutex
	reaped bool // from here on the pid and the group number may become somebody else's
}

// PID returns the pid of the child, also after its end.
func (p *Process) PID() int { return p.claim.leader.PID }

// Identity returns the identity of the child, also after its end.
func (p *Process) Identity() Identity { return p.claim.leader }

// RunID returns the mark the child carries in RunEnv, for the lease.
func (p *Process) RunID() string { return p.claim.runID }

// Exited is closed once: after the child has ended and was reaped, what it left in its group was killed (unless
// spareGroup), and its output was read to the end or for a second, whichever came first.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Exit reports how the child ended. It is the zero Exit until Exited is closed.
func (p *Process) Exit() Exit {
	select {
	case <-p.exited:
		return p.exit
	default:
		return Exit{}
	}
}

// WaitGroupGone waits until every member of the group is gone, looking after 1 ms first and every 50 ms at last. Where this
// host inherits orphans, as PID 1 or a subreaper, those of the group are waited for too. When ctx
// ends first, the error wraps ErrStillAlive and the cause of ctx.
func (p *Process) WaitGroupGone(ctx context.Context) error {
	err := waitUntil(ctx, func() bool { return !p.groupAlive() && lateOrphans(p.claim.leader, false) == 0 })
	if err != nil {
		return fmt.Errorf("wait for process group %d: %w", p.PID(), err)
	}
	return nil
}

const (
	firstLook = time.Millisecond
	lastLook  = 50 * time.Millisecond
)

// waitUntil calls done with growing pauses until it is true or ctx ends. It calls it at least once, and once more when
// ctx has ended.
func waitUntil(ctx context.Context, done func() bool) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for next := firstLook; ; next = min(2*next, lastLook) {
		if done() {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrStillAlive, context.Cause(ctx))
		}
		pause.Reset(next)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

// A fork of some other goroutine can hold a freshly written binary open for a moment, so a busy one is tried again:
// 5 tries, 10, 20, 40 and 80 ms apart.
const (
	busyTries = 5
	busyPause = 10 * time.Millisecond
)

// Start starts a child in a process group of its own. Its standard input is empty. It returns when the child runs; from
// then on ctx has no effect on the child, and the caller must end it and wait for that (Terminate, KillGroup, Exited).
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
	if spec.drainGrace == 0 {
		spec.drainGrace = defaultDrainGrace
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
	p.awaitAndReap()
	p.drain()
	for _, r := range p.readers() {
		p.exit.TooMuchOutput = p.exit.TooMuchOutput || r.stopped
	}
	close(p.exited)
}

// awaitAndReap waits for the end of the child, and reaps it. Between the two the child is a zombie that keeps its group number: the only
// moment at which what it left behind can be killed with certainty.
func (p *Process) awaitAndReap() {
	err := awaitEnd(p.child, p.claim.leader)
	p.exit = Exit{Code: -1, Started: p.started, Ended: time.Now()}
	if err == nil && !p.spec.spareGroup {
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
	ctx, cancel := context.WithTimeout(context.Background(), p.spec.drainGrace)
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

// wire is one pipe from the child to the host.
type wire struct{ host, child *os.File }

// wires are the child's standard streams. Merged ones have one pipe for both outputs, and no err.
type wires struct {
	null     *os.File
	out, err wire
}

func newWires(merged bool) (*wires, error) {
	w := new(wires)
	var err error
	if w.null, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if w.out.host, w.out.child, err = os.Pipe(); err == nil && !merged {
		w.err.host, w.err.child, err = os.Pipe()
	}
	if err != nil {
		w.closeChildEnds()
		w.closeHostEnds()
		return nil, err
	}
	return w, nil
}

func (w *wires) childFiles() []*os.File {
	if w.err.child == nil {
		return []*os.File{w.null, w.out.child, w.out.child}
	}
	return []*os.File{w.null, w.out.child, w.err.child}
}

// closeChildEnds must happen in the host after the fork, or the host itself would keep the pipes from ending.
func (w *wires) closeChildEnds() { closeAll(w.null, w.out.child, w.err.child) }

func (w *wires) closeHostEnds() { closeAll(w.out.host, w.err.host) }

// closeAll drops the errors: these are pipes, which lose nothing by a failed close, and files that were never opened or
// are closed already, which is harmless.
func closeAll(files ...*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}
