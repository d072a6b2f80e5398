package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"
)

// DefaultReclaimWait bounds how long Reclaim waits for what it killed to be gone.
const DefaultReclaimWait = 5 * time.Second

// ErrLeaseHeld says that the host that wrote the lease is alive, so the child is not ours to end.
var ErrLeaseHeld = errors.New("lease is held by a living host")

// ReclaimOptions tune Reclaim. The zero value is usable.
type ReclaimOptions struct {
	// Wait bounds the wait for the killed to be gone; 0 means DefaultReclaimWait.
	Wait time.Duration
	// Logger is told what was found and killed; nil discards it.
	Logger *slog.Logger
}

// Verdict says what a lease led to.
type Verdict string

// The verdicts of Reclaim.
const (
	// VerdictNone: there was no lease.
	VerdictNone Verdict = "no lease"
	// VerdictUnknown: the lease was corrupt. Nobody was signalled and the file stays, to be replaced by the next lease.
	VerdictUnknown Verdict = "unknown"
	// VerdictHeld: the host that wrote the lease is alive. Nobody was signalled.
	VerdictHeld Verdict = "held"
	// VerdictGone: nothing of the run is left.
	VerdictGone Verdict = "gone"
	// VerdictKilled: what was left was killed, and is gone.
	VerdictKilled Verdict = "killed"
	// VerdictFailed: something is left that could not be ended; the error says why.
	VerdictFailed Verdict = "failed"
)

// Report tells what Reclaim found and did.
type Report struct {
	Verdict Verdict
	// Lease is what was read; zero when there was none or it was corrupt.
	Lease Lease
	// Killed are the processes that were proven ours and killed, the leader first.
	Killed []Identity
	// Unproven are processes in the leased group that nothing proved, so that they were left alone.
	Unproven []Identity
}

// Reclaim ends what a killed host left behind, before its files are used again: the leased child, and every member of its
// process group, also when the child itself is gone. Nobody is signalled by pid, group or name alone: the child is
// proven by its start time; the members by the child that still holds their group number, or else by a start time not
// before the child's together with RunEnv or the leased binary.
//
// It waits until the killed, and those that were ending already, are gone, and removes the lease when nothing is left. A
// missing or corrupt lease is no error. Errors wrap ErrLeaseHeld (another living host owns the child), ErrStillAlive (ctx
// or Wait ended first), ErrNotProven (a member could not be proven; the lease stays), or are the operating system's.
// It must not be called while this process itself runs the leased child.
func Reclaim(ctx context.Context, path string, opts ReclaimOptions) (Report, error) {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lease, err := ReadLease(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Report{Verdict: VerdictNone}, nil
	case errors.Is(err, ErrLeaseCorrupt):
		log.Warn("lease is corrupt, nobody can be found by it", "error", err)
		return Report{Verdict: VerdictUnknown}, nil
	case err != nil:
		return Report{Verdict: VerdictFailed}, err
	}
	if lease.heldByAnother() {
		return Report{Verdict: VerdictHeld, Lease: lease},
			fmt.Errorf("%w: host pid %d runs pid %d", ErrLeaseHeld, lease.Host.PID, lease.Identity.PID)
	}
	if opts.Wait <= 0 {
		opts.Wait = DefaultReclaimWait
	}
	ctx, cancel := context.WithTimeout(ctx, opts.Wait)
	defer cancel()
	report, err := reclaim(ctx, lease, log)
	if err == nil {
		err = RemoveLease(path)
	}
	return report, err
}

// heldByAnother lets a host reclaim its own leases: a run of its own may have left members behind.
func (l Lease) heldByAnother() bool {
	return l.Host.PID != os.Getpid() && l.Host != (Identity{}) && l.Host.Alive()
}

// hunt is one Reclaim under way.
type hunt struct {
	claim  claim
	log    *slog.Logger
	report Report
	seen   map[Identity]bool
	doubts int   // rounds that found nobody but the unproven
	err    error // of the last round; a kill that failed may work, or be needless, in the next
}

func reclaim(ctx context.Context, lease Lease, log *slog.Logger) (Report, error) {
	h := &hunt{
		claim:  claim{leader: lease.Identity, binary: lease.Binary, runID: lease.RunID},
		log:    log,
		report: Report{Verdict: VerdictGone, Lease: lease},
		seen:   make(map[Identity]bool),
	}
	err := waitUntil(ctx, h.round)
	if err == nil { // after exec(2), the children of before are still this host's
		err = waitUntil(ctx, func() bool { return lateOrphans(lease.Identity, true) == 0 })
	}
	if err == nil {
		err = h.err
	} else if h.err != nil {
		err = fmt.Errorf("%w: %w", err, h.err)
	}
	switch {
	case err != nil:
		h.report.Verdict = VerdictFailed
		return h.report, fmt.Errorf("reclaim group %d: %w", lease.Identity.PID, err)
	case len(h.report.Killed) > 0:
		h.report.Verdict = VerdictKilled
	}
	return h.report, nil
}

// round kills whoever is there and reports whether nobody was. Every round looks anew, because a member may have
// started another one just before it was killed.
func (h *hunt) round() (done bool) {
	found, err := h.claim.survey()
	h.err, h.report.Unproven = err, found.unproven
	if err != nil {
		return false
	}
	dying := h.dying(found.unproven) || len(found.ending) > 0
	if len(found.ours) == 0 && !dying && len(found.unproven) > 0 {
		h.doubts++
		h.err = fmt.Errorf("%w: %v; end them by hand if they hold the database", ErrNotProven, found.unproven)
		return h.doubts >= maxDoubts
	}
	for _, id := range h.leaderFirst(found.ours) {
		h.kill(id)
	}
	return len(found.ours) == 0 && !dying
}

// maxDoubts is how many rounds nothing proves a process before it is believed to be a stranger: one that is just
// ending has lost its environment and its binary, and not every system tells that it ends.
const maxDoubts = 6

// dying says that one of these was proven, and killed, in an earlier round.
func (h *hunt) dying(unproven []Identity) bool {
	return slices.ContainsFunc(unproven, func(id Identity) bool { return h.seen[id] })
}

// leaderFirst keeps the watcher from replacing a worker that is killed before it.
func (h *hunt) leaderFirst(ids []Identity) []Identity {
	for i, id := range ids {
		if id == h.claim.leader {
			ids[0], ids[i] = ids[i], ids[0]
		}
	}
	return ids
}

func (h *hunt) kill(id Identity) {
	if err := id.Kill(); err != nil {
		h.err = err
		return
	}
	if h.seen[id] {
		return
	}
	h.seen[id] = true
	h.report.Killed = append(h.report.Killed, id)
	h.log.Info("killed a process that an earlier host left behind", "pid", id.PID, "run_id", h.claim.runID)
}
