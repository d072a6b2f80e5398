package osquerydtest

import (
	"context"
	"io"
	"sync"
)

// Serve plays one osqueryd, without a watchdog, by goroutines of the calling
// process: for hundreds of instances in one test, and for fuzzing. args is an
// argv, whose first element is only a name. Ending ctx is a SIGTERM; the
// actions Exit and Kill end the fake at once and leave its files behind.
//
// It returns the exit code when all of its goroutines have ended. stdout is
// discarded; stderr may be nil.
func Serve(ctx context.Context, args []string, script Script, stderr io.Writer) int {
	if stderr == nil {
		stderr = io.Discard
	}
	p := newProcess(args, io.Discard, stderr)
	p.script = script
	return serve(ctx, p)
}

// Serve is as the function Serve, with the fake's present script and remote
// control: the fake is among Processes, with the pid of this process.
func (f *Fake) Serve(ctx context.Context, args []string, stderr io.Writer) int {
	if stderr == nil {
		stderr = io.Discard
	}
	p := newProcess(append([]string{f.path}, args...), io.Discard, stderr)
	var err error
	if p.script, p.dir, err = loadScript(f.path); err != nil {
		return 1
	}
	return serve(ctx, p)
}

func serve(ctx context.Context, p *process) int {
	var died death
	p.die = died.set
	if code, done := p.parse("", true); done {
		return code
	}
	undo := context.AfterFunc(ctx, func() {
		if !p.ignoreTerm.Load() {
			p.requestStop(0)
		}
	})
	defer undo()
	w, _ := p.role.(*worker)
	ended := make(chan struct{})
	abandoned := make(chan struct{})
	go func() {
		defer close(abandoned)
		select {
		case <-p.dead:
			w.server.abandon()
		case <-ended:
		}
	}()
	code := p.run()
	close(ended)
	<-abandoned
	p.markDead()
	p.link.close()
	p.link.join()
	if c, dead := died.get(); dead {
		return c
	}
	return code
}

// death remembers the first end without cleaning up.
type death struct {
	mu   sync.Mutex
	code int
	dead bool
}

func (d *death) set(p *process, code, _ int) {
	d.mu.Lock()
	if !d.dead {
		d.code, d.dead = code, true
	}
	d.mu.Unlock()
	p.markDead()
}

func (d *death) get() (code int, dead bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.code, d.dead
}
