package instance

import (
	"context"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/stats"
)

// WithoutKernelHelp turns off what ends osqueryd with its host, so that a test can
// see the lease do its work.
func WithoutKernelHelp() Option { return func(o *options) { o.noParentDeathSignal = true } }

// WithOOMKills replaces the kernel's count.
func WithOOMKills(count func() uint64) Option { return func(o *options) { o.oomKills = count } }

// SDKFlags names the flags that the SDK passes in some run.
func SDKFlags() []string {
	var names []string
	o := defaults("a")
	o.watchdog = Watchdog{Disabled: true, Delay: time.Second}
	for _, f := range o.sdkFlags(paths{}, "") {
		names = append(names, f.name)
	}
	return names
}

// ConfigMayBe reports which ends of a run count against a config.
func ConfigMayBe(e *ExitError) bool { return configMayBe(e) }

// WithActivated calls f when osqueryd first called a plugin after a registration.
func WithActivated(f func(what string)) Option { return func(o *options) { o.activated = f } }

// WithDiskHook calls f before whatever may hang with the instance's file system.
func WithDiskHook(f func(what string)) Option { return func(o *options) { o.diskHook = f } }

// What a Runner sets and calls, for tests without one.

// WithGate sets the gate of starts.
func WithGate(g control.Gate) Option { return Internal(func(s *control.Settings) { s.Gate = g }) }

// WithClock sets the clock by which a sleep is noticed.
func WithClock(now control.Clock) Option {
	return Internal(func(s *control.Settings) { s.Clock = now })
}

// WithPredecessor continues another instance.
func WithPredecessor(old *Instance) Option {
	return Internal(func(s *control.Settings) { s.Predecessor = &engine{old} })
}

// Ship delivers between runs.
func (in *Instance) Ship(ctx context.Context) error { return in.ship(ctx) }

// Settle waits for observers.
func (in *Instance) Settle(ctx context.Context) { in.settle(ctx) }

// Record emits an event.
func (in *Instance) Record(ctx context.Context, e stats.Event) { in.record(ctx, e) }

// SetAsleep announces a sleep.
func (in *Instance) SetAsleep(asleep bool) { in.setAsleep(asleep) }
