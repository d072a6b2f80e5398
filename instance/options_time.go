package instance

import "time"

// WithExtensionsTimeout sets how long osqueryd waits, at its start and after a
// new worker, for our extension before it gives up. Default 20 s. Whole seconds.
func WithExtensionsTimeout(d time.Duration) Option {
	return func(o *options) { o.extensionsTimeout = d }
}

// WithStartTimeout bounds a start, from spawn to ready. Default 60 s. Three workers in a row
// that die on the way end it at once, with stats.CauseCrashLoop. An osqueryd that has our
// extension but does not activate its logger, because the config is not there yet, counts as
// ready after half of what is left of the time, 30 s at most.
func WithStartTimeout(d time.Duration) Option { return func(o *options) { o.startTimeout = d } }

// WithReplaceTimeout bounds how long a run waits for osqueryd to bring up a new
// worker before the run is ended. It has to cover osqueryd's own pause before a
// respawn, which grows to some 20 s. Default 90 s.
func WithReplaceTimeout(d time.Duration) Option { return func(o *options) { o.replaceTimeout = d } }

// WithRegisterTimeout bounds one attempt to register the extension. Default 10 s.
func WithRegisterTimeout(d time.Duration) Option { return func(o *options) { o.registerTimeout = d } }

// WithStopGrace sets how long osqueryd has to leave after SIGTERM before it is
// killed; 0 kills at once. Default 20 s, which covers osqueryd's own 15.
func WithStopGrace(d time.Duration) Option { return func(o *options) { o.stopGrace = d } }

// WithKillTimeout bounds the wait for a killed process group to be gone, also for what an
// earlier host left, and at the end of a run for calls of the host's code and for a file
// system that does not answer. Default 5 s.
func WithKillTimeout(d time.Duration) Option { return func(o *options) { o.killTimeout = d } }

// WithDrain bounds the delivery of queued logs when a run is asked to stop. Default 2 s; 0
// delivers nothing more. What is not delivered stays queued on disk.
func WithDrain(d time.Duration) Option { return func(o *options) { o.drain = d } }

// WithBinaryTimeout bounds each execution of the binary that checks it. Default 10 s.
func WithBinaryTimeout(d time.Duration) Option { return func(o *options) { o.binaryTimeout = d } }

// WithDiskTimeout bounds each wait, in New and at the start of a run, for the file system of
// the instance's directory: one that hangs fails the start. It has to cover the recovery
// of full queues on a slow disk. At the end of a run WithKillTimeout bounds all of them
// together. Default 60 s.
func WithDiskTimeout(d time.Duration) Option { return func(o *options) { o.diskTimeout = d } }

// WithHealth sets how often the registration is checked, how long a check may
// take, and how many failures in a row end the run. Defaults 10 s, 5 s and 3. A
// registration that is lost is mended at the first failure. Up to a tenth of the
// interval is added to it, so that the instances of a host are checked in one go.
func WithHealth(interval, timeout time.Duration, failures int) Option {
	return func(o *options) {
		o.healthInterval, o.healthTimeout, o.healthFailures = interval, timeout, failures
	}
}

// WithHealthDelay sets how long after ready the first check comes. Without it that is the
// interval of WithHealth. 0 checks at once.
func WithHealthDelay(d time.Duration) Option {
	return func(o *options) { o.healthDelay = &d }
}

// healthTicks is how many times in an interval checks can be due.
const healthTicks = 10

// firstHealth is the time from ready, which is now, to the first check.
func (o *options) firstHealth(now time.Time) time.Duration {
	if o.healthDelay != nil {
		return *o.healthDelay
	}
	return o.nextHealth(now)
}

// nextHealth is the time from now to the next check. It ends at a tick that all
// instances with the interval have in common: to wake an idle host costs more than
// the check does.
func (o *options) nextHealth(now time.Time) time.Duration {
	tick := o.healthInterval / healthTicks
	if tick <= 0 {
		return o.healthInterval
	}
	due := now.Add(o.healthInterval)
	if past := due.Sub(due.Truncate(tick)); past > 0 {
		due = due.Add(tick - past)
	}
	return due.Sub(now)
}

// WithHealthChecker adds a check of the host's own to the instance's.
func WithHealthChecker(h HealthChecker) Option { return func(o *options) { o.healthChecker = h } }

// WithQueryTimeout bounds a query whose context has no deadline. Default 60 s.
func WithQueryTimeout(d time.Duration) Option { return func(o *options) { o.queryTimeout = d } }

// WithAbandonedQueryWait sets how long the next query waits for the answer of one that
// was given up, before a second connection is opened. Default 5 s; 0 opens
// it at once.
func WithAbandonedQueryWait(d time.Duration) Option {
	return func(o *options) { o.abandonedQueryWait = d }
}

// WithObserverTimeout bounds, at the end of a run and at Close, the wait for observers that
// are slow to take events. Then their context ends, and they have as long again to return.
// Default 5 s.
func WithObserverTimeout(d time.Duration) Option {
	return func(o *options) { o.observerTimeout = d }
}
