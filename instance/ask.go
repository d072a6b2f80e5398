package instance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// ask is something that only the run's goroutine may do, asked for by another.
type ask struct {
	do   func(ctx context.Context, r *run) error
	done chan error // has room for the answer
}

// askRun has the current run do something, and waits for it under ctx. It fails
// with ErrNotRunning when there is no run, or it ends first; a run that is not
// ready, or not again, counts as none unless wait is set.
func (in *Instance) askRun(ctx context.Context, wait bool, do func(context.Context, *run) error) error {
	a := ask{do: do, done: make(chan error, 1)}
	ctx, cancel := context.WithTimeoutCause(ctx, in.askBound(wait), errAskTimeout)
	defer cancel()
	for {
		in.mu.Lock()
		ready := in.current != nil && in.current.ready
		coming := in.current != nil && !in.current.over && wait
		changed := in.changed
		in.mu.Unlock()
		asks := in.asks
		switch {
		case ready:
		case coming:
			asks = nil // nobody serves it yet
		default:
			return in.notRunning()
		}
		select {
		case asks <- a:
			return in.awaitAsk(ctx, a)
		case <-changed: // look again
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// errAskTimeout is reached only when the run's goroutine itself is held up.
var errAskTimeout = errors.New("the run did not get to it in time; a health checker must not wait for its own instance")

// askBound is longer than whatever the run may be busy with.
func (in *Instance) askBound(wait bool) time.Duration {
	d := 2*in.o.registerTimeout + in.o.healthTimeout + in.o.killTimeout
	if wait {
		d += in.o.startTimeout
	}
	return d
}

// answer does what was asked for.
func (r *run) answer(ctx context.Context, a ask) {
	err := r.reconnect(ctx)
	if err == nil {
		err = a.do(ctx, r)
	}
	a.done <- err
}

// awaitAsk waits for a request that the run has taken; the run answers every one.
func (in *Instance) awaitAsk(ctx context.Context, a ask) error {
	select {
	case err := <-a.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SetTables replaces the host's tables, at once when osqueryd runs and else at its
// next start. A run's other plugins are not touched. While the tables are exchanged,
// a query for one of them can fail. It reports all mistakes in the tables at once. Not to be
// called from the health checker, which holds up the run that it waits for.
func (in *Instance) SetTables(ctx context.Context, tables ...extension.Table) error {
	if err := in.ext.SetTables(tables...); err != nil {
		return err
	}
	in.tablesAsked.Add(1) // a run that is not ready looks at this when it is
	err := in.askRun(ctx, false, func(ctx context.Context, r *run) error { return r.exchangeTables(ctx) })
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	return err
}

// PushConfig fetches the config and hands it to osqueryd now, by osqueryd's own
// update call, instead of at its next refresh. It does nothing when the config is
// the one that osqueryd has. An invalid config does not reach osqueryd: it is an
// error, and an event; the error is [extension.ErrConfigSetAside] for one that osqueryd died
// with. Of several at the same time one goes after the other, so that the newest config is
// in force in the end; each waits under its ctx. It fails with ErrNotRunning unless the
// instance is ready. Not to be called from the health checker or the transport's Config.
func (in *Instance) PushConfig(ctx context.Context) error {
	if !in.isReady() { // what an earlier osqueryd had says nothing
		return in.notRunning()
	}
	release, err := in.takePush(ctx)
	if err != nil {
		return err
	}
	defer release()
	if _, changed, err := in.ext.FetchConfig(ctx); err != nil || !changed {
		return err
	}
	return in.pushNewest(ctx, false)
}

// pushLate hands osqueryd a config that came after it had been answered. At a start
// that is before ready, so it waits for that; it ends with the run.
func (in *Instance) pushLate() {
	ctx, cancel := context.WithTimeout(context.Background(), in.o.startTimeout+in.o.registerTimeout)
	defer cancel()
	release, err := in.takePush(ctx)
	if err == nil {
		defer release()
		err = in.pushNewest(ctx, true)
	}
	if err != nil {
		in.log.Warn("a config that came late could not be pushed; osqueryd asks again at its next refresh", "err", err)
	}
}

// takePush waits until nobody else pushes a config.
func (in *Instance) takePush(ctx context.Context) (release func(), err error) {
	select {
	case in.pushing <- struct{}{}:
		return func() { <-in.pushing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("instance %q: another push of a config is under way: %w", in.o.id, context.Cause(ctx))
	}
}

// pushNewest pushes until osqueryd has the newest config: while one is under way, osqueryd may
// be answered a newer one, which the older must not replace.
func (in *Instance) pushNewest(ctx context.Context, wait bool) error {
	for {
		config, pending := in.ext.PendingConfig()
		if !pending {
			return nil
		}
		if err := in.push(ctx, wait, config); err != nil {
			return err
		}
		in.ext.ConfigDelivered(config)
		in.emit(stats.ConfigPushed{Head: in.head()})
	}
}

// push calls osqueryd's update for every source.
func (in *Instance) push(ctx context.Context, wait bool, config map[string]string) error {
	return in.askRun(ctx, wait, func(ctx context.Context, r *run) error {
		ctx, cancel := context.WithTimeout(ctx, r.o.registerTimeout)
		defer cancel()
		for _, source := range sortedKeys(config) {
			status, _, err := r.session.control.Call(ctx, "config", "update", map[string]string{
				"action": "update", "source": source, "data": config[source],
			})
			if err != nil {
				return err
			}
			if status.Code != 0 {
				return fmt.Errorf("osqueryd refused config source %q: %s", source, status.Message)
			}
		}
		return nil
	})
}
