package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/control"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// noteDenylisted announces the queries that osqueryd has denylisted because it died in them.
// Its line about one, which can be forged, is the reason to look into its table.
func (r *run) noteDenylisted(ctx context.Context) {
	suspects := r.stderr.takeSuspects()
	if len(suspects) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().health.Timeout)
	defer cancel()
	rows, err := callTable(ctx, r.session.control, "osquery_schedule")
	if err != nil {
		r.log.Debug("osquery_schedule could not be read", "err", err)
		for _, name := range suspects {
			r.stderr.suspect(name) // for the next check
		}
		return
	}
	for _, row := range rows {
		line, _, _ := strings.Cut(row["name"], "\n") // all that a line of osqueryd's has of it
		if row["denylisted"] == "1" && slices.Contains(suspects, strings.TrimSpace(line)) {
			r.in.emit(stats.QueryDenylisted{Head: r.in.head(), Query: row["name"]})
		}
	}
}

// sleepClock makes a clock of two that count from any moment.
func sleepClock(always, running func() time.Duration) control.Clock {
	start, a, b := time.Now().Round(0), always(), running()
	return func() (time.Time, time.Duration) { return start.Add(always() - a), running() - b }
}

// suspendJump is how far the time that always goes on has to be ahead of running time to
// count as a sleep: a shorter one does no harm.
const suspendJump = 5 * time.Second

// sleepState is what the host announced about the machine's sleep.
type sleepState struct {
	n     uint64 // odd while it sleeps
	since time.Time
}

// asleep forgets a sleep that was never ended.
func (s sleepState) asleep() bool { return s.n%2 == 1 && time.Since(s.since) < control.SleepLimit }

// health is what earlier checks of a run have shown.
type health struct {
	failures  int  // in a row
	unwell    bool // a failure was announced, and no recovery since
	checks    int
	looks     int           // at the schedule, and those that were left out
	announced uint64        // denylisted queries at the last look
	sleeps    uint64        // of the instance, at the last look
	always    time.Time     // of the last look at the clock
	running   time.Duration // of the same moment
}

func (r *run) newHealth() health {
	h := health{sleeps: r.in.lastSleep().n}
	h.slept(r.o.clock())
	return h
}

func (in *Instance) lastSleep() sleepState {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.sleep
}

// noteAnnouncedSleep reports whether the host announced a sleep since the last look, or one that
// still lasts.
func (r *run) noteAnnouncedSleep() bool {
	last := r.in.lastSleep()
	if last.n == r.health.sleeps && !last.asleep() {
		return false
	}
	r.health.sleeps, r.health.failures = last.n, 0
	return true
}

// slept returns how long the machine slept since the last call.
func (h *health) slept(always time.Time, running time.Duration) time.Duration {
	ahead := always.Sub(h.always) - (running - h.running)
	h.always, h.running = always, running
	return ahead
}

// noteSleep discards what was found before the machine slept, and reports whether it did.
func (r *run) noteSleep() bool {
	announced := r.noteAnnouncedSleep()
	d := r.health.slept(r.o.clock())
	if d <= suspendJump {
		return announced
	}
	r.health.failures = 0
	r.in.emit(stats.Suspended{Head: r.in.head(), For: d})
	return true
}

// checkHealth makes one check and acts on it. It returns an error when the run has to end.
func (r *run) checkHealth(ctx context.Context) error {
	r.noteSleep()
	if r.workerLost() {
		return nil // there is nobody to check, and serve sees to it
	}
	err := r.checkOnce(ctx)
	slept := r.noteSleep() // then a deadline passed while nobody could meet it
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case r.hasExited():
		return errExited
	case err == nil:
		r.healthy()
		r.readDenied(ctx)
		return nil
	case slept, r.workerLost(): // a worker that went away is replaced, not unhealthy
		return nil
	}
	r.health.failures, r.health.unwell = r.health.failures+1, true
	r.in.emit(stats.HealthFailed{Head: r.in.head(), Err: err, InARow: r.health.failures})
	if r.health.failures >= r.in.live.Load().health.Failures {
		return fmt.Errorf("%w: %d checks in a row failed, the last: %w", errUnhealthy, r.health.failures, err)
	}
	return nil
}

func (r *run) healthy() {
	r.health.failures = 0
	if r.health.unwell { // though a sleep may have voided the failures
		r.health.unwell = false
		r.in.emit(stats.HealthRecovered{Head: r.in.head()})
	}
}

// denied is the list of denylisted queries in osqueryd's schedule at the last look.
type denied struct {
	mu    sync.Mutex
	names []string
}

func (d *denied) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.names)
}

func (d *denied) set(names []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.names = names
}

// scheduleEvery is how many health checks pass between two looks at the schedule while
// nothing is denylisted.
const scheduleEvery = 10

// readDenied reads which queries osqueryd refuses to run: now and then, and at every check
// while there are any or one was announced since the last look.
func (r *run) readDenied(ctx context.Context) {
	h := &r.health
	announced := r.in.rec.Snapshot().Totals.Denylisted
	due := h.looks%scheduleEvery == 0 || announced != h.announced || len(r.in.denied.list()) > 0
	h.looks++
	if !due {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().health.Timeout)
	defer cancel()
	rows, err := callTable(ctx, r.session.control, "osquery_schedule")
	if err != nil {
		r.log.Debug("osquery_schedule could not be read", "err", err)
		return
	}
	h.announced = announced
	var names []string
	for _, row := range rows {
		if row["denylisted"] == "1" {
			names = append(names, row["name"])
		}
	}
	slices.Sort(names)
	r.in.denied.set(names)
}

// checkOnce holds the instance's own checks and the host's.
func (r *run) checkOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().health.Timeout)
	defer cancel()
	if err := r.checkSession(ctx); err != nil {
		r.awaitLoss(ctx)
		return err
	}
	return r.in.runHostCheck(ctx, r.session.sentinel.Lost())
}

// lossGrace is how much later than that of another connection the sentinel's end can be
// noticed when a worker dies.
const lossGrace = 100 * time.Millisecond

// awaitLoss waits for the sentinel to report the worker's death, if another connection ended
// by itself.
func (r *run) awaitLoss(ctx context.Context) {
	if !r.session.control.Broken() || ctx.Err() != nil {
		return
	}
	timer := time.NewTimer(lossGrace)
	defer timer.Stop()
	select {
	case <-r.session.sentinel.Lost():
	case <-ctx.Done():
	case <-timer.C:
	}
}

// workerLost reports whether the session's worker ended.
func (r *run) workerLost() bool {
	select {
	case <-r.session.sentinel.Lost():
		return true
	default:
		return false
	}
}

// checkSession looks for all that a session consists of. A registration that is gone
// is repaired right here.
func (r *run) checkSession(ctx context.Context) error {
	if err := r.reconnect(ctx); err != nil {
		return err
	}
	if err := r.reachable(ctx); err != nil {
		return err
	}
	r.syncTables(ctx)
	r.noteDenylisted(ctx)
	lost, err := r.findLost(ctx)
	if err != nil {
		return err // it did not answer; the registration may stand
	}
	if lost.any() {
		return r.repair(ctx, lost)
	}
	return nil
}

// reachable looks for the socket's file: the connections that are open outlive it, so
// they do not show that osqueryd can no longer be reached. osqueryd does not open its
// socket a second time. Where there is no file to look at, a connection is opened and closed again.
func (r *run) reachable(ctx context.Context) error {
	if r.session.file != nil {
		socket, file := r.in.Socket(), r.session.file
		return guard.Call(ctx, 0, func() error {
			r.o.diskHook("looking for the socket")
			return sameSocket(socket, file)
		}, nil)
	}
	c, err := thriftconn.Dial(ctx, r.in.Socket())
	if err != nil {
		return err
	}
	return c.Close()
}

// sameSocket checks that the socket's file is still the one that we connected to.
func sameSocket(path string, file os.FileInfo) error {
	now, err := os.Lstat(path)
	switch {
	case err != nil:
		return fmt.Errorf("osqueryd's socket is gone: %w", err)
	case !os.SameFile(now, file):
		return fmt.Errorf("%s is no longer osqueryd's socket: somebody put another file in its place", path)
	}
	return nil
}

// socketFile is what reachable compares with later; nil for a named pipe, and when the
// file system does not answer.
func socketFile(ctx context.Context, p paths) os.FileInfo {
	if p.socketDir == "" {
		return nil
	}
	var info os.FileInfo
	err := guard.Call(ctx, 0, func() (err error) {
		info, err = os.Lstat(p.socket)
		return err
	}, nil)
	if err != nil {
		return nil
	}
	return info
}

// reconnect makes the connection for control anew if a call broke it.
func (r *run) reconnect(ctx context.Context) error {
	if !r.session.control.Broken() {
		return nil
	}
	c, err := thriftconn.Dial(ctx, r.in.Socket())
	if err != nil {
		return err
	}
	r.in.mu.Lock()
	r.session.control = c
	r.in.mu.Unlock()
	return nil
}

// hostCheck lets one call of the host's health check run at a time, and holds
// nobody up when one does not return.
type hostCheck struct {
	slot chan struct{} // full while the host's code runs
}

func newHostCheck() hostCheck { return hostCheck{slot: make(chan struct{}, 1)} }

// errGone reports that there is nothing left to check.
var errGone = errors.New("osqueryd's worker went away meanwhile")

// runHostCheck calls the host's own check, if it has one, and contains it. It
// returns with ctx at the latest, and when gone is closed, which may be nil: the host's
// code may wait for what only the caller can bring back.
func (in *Instance) runHostCheck(ctx context.Context, gone <-chan struct{}) error {
	check := in.live.Load().health.Check
	if check == nil {
		return nil
	}
	select {
	case in.hostCheck.slot <- struct{}{}:
	case <-gone:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("the host's health check has not returned from an earlier call: %w", context.Cause(ctx))
	}
	done := make(chan error, 1)
	go func() { // it ends when the host's code returns; wait joins it
		defer func() { <-in.hostCheck.slot }()
		done <- in.callHostCheck(ctx, check)
	}()
	select {
	case err := <-done:
		return err
	case <-gone:
		return errGone
	case <-ctx.Done():
		return fmt.Errorf("the host's health check: %w", context.Cause(ctx))
	}
}

func (in *Instance) callHostCheck(ctx context.Context, check func(context.Context, *Instance) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			in.caughtPanicIn("health check", v, debug.Stack())
			err = fmt.Errorf("the host's health check panicked: %v", v)
		}
	}()
	if err := check(ctx, in); err != nil {
		return fmt.Errorf("the host's health check: %w", err)
	}
	return nil
}

// wait joins a call that is under way, for at most d.
func (c hostCheck) wait(d time.Duration, log *slog.Logger) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case c.slot <- struct{}{}:
		<-c.slot
	case <-timer.C:
		log.Error("the host's health check does not return although its context ended")
	}
}

// readBackFlags compares what osqueryd runs with to what it was passed, because
// osqueryd ignores some flags in silence and lets a config change others.
func (r *run) readBackFlags(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().health.Timeout)
	defer cancel()
	if err := r.reconnect(ctx); err != nil {
		return // osqueryd is on its way out, or health will show it
	}
	rows, err := callTable(ctx, r.session.control, "osquery_flags")
	if err != nil {
		r.log.Debug("osquery_flags could not be read", "err", err)
		return
	}
	values := make(map[string]string, len(rows))
	for _, row := range rows {
		values[row["name"]] = row["value"]
	}
	for _, f := range r.o.passedFlags(r.in.place(), extensionName, r.in.Binary()) {
		got, known := values[f.name]
		if !known || sameFlag(f.value, got) {
			continue // gflags' own, such as flagfile, are not listed by every version
		}
		r.in.emit(stats.FlagIneffective{Head: r.in.head(), Flag: f.name, Want: f.value, Got: got})
	}
}

// sameFlag compares values as osqueryd prints them: true for 1, 8 for 008.
func sameFlag(want, got string) bool {
	if want == got {
		return true
	}
	if w, ok := boolFlag(want); ok {
		g, ok := boolFlag(got)
		return ok && w == g
	}
	w, errW := strconv.ParseFloat(want, 64)
	g, errG := strconv.ParseFloat(got, 64)
	return errW == nil && errG == nil && w == g
}

// boolFlag takes what osqueryd takes for a truth value.
func boolFlag(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "y", "yes":
		return true, true
	case "n", "no":
		return false, true
	}
	value, err := strconv.ParseBool(strings.ToLower(s))
	return value, err == nil
}

// Health checks the registration now, on a connection of its own, and calls Health.Check. It
// returns nil when all is well, and changes nothing.
func (in *Instance) Health(ctx context.Context) (err error) {
	in.mu.Lock()
	r := in.current
	ready := r != nil && r.ready && r.session != nil
	var uuid int64
	if ready {
		uuid = r.session.plugins.uuid
	}
	in.mu.Unlock()
	if !ready {
		return in.notRunning()
	}
	ctx, cancel := context.WithTimeout(ctx, in.live.Load().health.Timeout)
	defer cancel()
	rows, err := in.controlTable(ctx, "osquery_extensions")
	if err != nil {
		return fmt.Errorf("instance %q: %w", in.o.id, err)
	}
	want := strconv.FormatInt(uuid, 10)
	for _, row := range rows {
		if row["uuid"] == want && row["name"] == extensionName {
			return in.runHostCheck(ctx, nil)
		}
	}
	return fmt.Errorf("instance %q: osqueryd does not list our extension (UUID %s)", in.o.id, want)
}
