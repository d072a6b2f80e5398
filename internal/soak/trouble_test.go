package soak_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// faults counts what the server did.
type faults struct{ calls, failed atomic.Int64 }

// flakyServer fails a third of all calls; half of these after it took them, so that
// the host cannot know.
func flakyServer(t *testing.T) (*remoteapitest.Server, *faults) {
	t.Helper()
	srv, err := remoteapitest.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	f := &faults{}
	fail := []remoteapitest.Fault{
		remoteapitest.LoseAnswer(), remoteapitest.LoseAnswer(), remoteapitest.LoseAnswer(),
		remoteapitest.Cut(), remoteapitest.Answer(http.StatusBadGateway, "<html>"), remoteapitest.HTML(),
	}
	srv.SetFault(func(remoteapitest.Call, *http.Request) remoteapitest.Fault {
		f.calls.Add(1)
		if rand.IntN(3) != 0 {
			return nil
		}
		f.failed.Add(1)
		return fail[rand.IntN(len(fail))]
	})
	return srv, f
}

// chaos kills, at random moments that are spread over the lines, so that it is the
// same amount on any machine.
type chaos struct {
	size
	fake    *osquerydtest.Fake
	host    *host
	written *atomic.Int64

	killedOsqueryd, killedHost int
}

// run returns when everything was killed often enough.
func (c *chaos) run(ctx context.Context) error {
	kills := c.osquerydKills + c.hostKills
	order := rand.Perm(kills)
	step := c.lines / (kills + 1)
	for i, k := range order {
		if err := c.waitWritten(ctx, int64(step*i+rand.IntN(step))); err != nil {
			return err
		}
		var err error
		if k < c.hostKills {
			err = c.killHost()
		} else {
			err = c.killOsqueryd(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) killHost() error {
	if err := c.host.kill(); err != nil {
		return fmt.Errorf("kill the host: %w", err)
	}
	c.killedHost++
	return c.host.start()
}

// killOsqueryd kills a process of the fake: a watcher or a worker, in any phase.
func (c *chaos) killOsqueryd(ctx context.Context) error {
	victim, err := c.fake.WaitProcess(ctx, func(*osquerydtest.Process) bool { return true })
	if err != nil {
		return err
	}
	if all := c.fake.Processes(); len(all) > 0 {
		victim = all[rand.IntN(len(all))]
	}
	p, err := os.FindProcess(victim.PID())
	if err == nil {
		_ = p.Kill() // one that is gone by now was killed by the one before
		c.killedOsqueryd++
	}
	return err
}

func (c *chaos) waitWritten(ctx context.Context, lines int64) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for c.written.Load() < lines {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("only %d lines were written: %w", c.written.Load(), ctx.Err())
		}
	}
	return nil
}
