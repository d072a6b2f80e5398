package instance

import "time"

// WithExtensionsTimeout sets how long osqueryd waits, at its start and after a
// new worker, for our extension before it gives up. Default 20 s. Whole seconds.
func WithExtensionsTimeout(d time.Duration) Option {
	return func(o *options) { o.extensionsTimeout = d }
}

// WithStartTimeout bounds a start, from spawn to ready. Default 60 s.
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

// WithKillTimeout bounds the wait for a killed process group to be gone. Default 5 s.
func WithKillTimeout(d time.Duration) Option { return func(o *options) { o.killTimeout = d } }

// WithDrain bounds the delivery of queued logs when a run stops. Default 2 s. What
// is not delivered stays queued on disk.
func WithDrain(d time.Duration) Option { return func(o *options) { o.drain = d } }

// WithBinaryTimeout bounds each execution of the binary that checks it. Default 10 s.
func WithBinaryTimeout(d time.Duration) Option { return func(o *options) { o.binaryTimeout = d } }

// WithHealth sets how often the registration is checked, how long a check may
// take, and how many failures in a row end the run. Defaults 10 s, 5 s and 3. A
// registration that is lost is mended at the first failure.
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

// firstHealth is the time from ready to the first check.
func (o *options) firstHealth() time.Duration {
	if o.healthDelay != nil {
		return *o.healthDelay
	}
	return o.healthInterval
}

// WithHealthChecker adds a check of the host's own to the instance's.
func WithHealthChecker(h HealthChecker) Option { return func(o *options) { o.healthChecker = h } }

// WithQueryTimeout bounds a query whose context has no deadline. Default 60 s.
func WithQueryTimeout(d time.Duration) Option { return func(o *options) { o.queryTimeout = d } }

// WithAbandonedQueryWait sets how long the next query waits for the answer of one that
// was given up, before a second connection is opened. Default 5 s.
func WithAbandonedQueryWait(d time.Duration) Option {
	return func(o *options) { o.abandonedQueryWait = d }
}

// WithObserverTimeout bounds, at the end of a run and at Close, the wait for observers that
// are slow to take events. Then their context ends, and they have as long again to return.
// Default 5 s.
func WithObserverTimeout(d time.Duration) Option {
	return func(o *options) { o.observerTimeout = d }
}
