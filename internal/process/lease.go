package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// maxLease is how much of a lease file is read, in bytes; a real one has less than 1 KiB.
const maxLease = 64 << 10

// ErrLeaseCorrupt means that a lease file is truncated, damaged or makes no sense. No process can be found by it.
var ErrLeaseCorrupt = errors.New("lease file is corrupt")

// Lease is the note about a running child by which a later host finds what a killed one left behind.
type Lease struct {
	// Identity is the child.
	Identity Identity `json:"identity"`
	// PGID is the child's process group, which is its pid; 0 on Windows.
	PGID int `json:"pgid"`
	// Binary is the absolute path that was executed.
	Binary string `json:"binary"`
	// RunID is the mark in RunEnv, from [Process.RunID].
	RunID string `json:"run_id"`
	// Socket is for the reader's information only.
	Socket string `json:"socket"`
	// Started is when the child was started.
	Started time.Time `json:"started"`
	// Host is the process that owns the child. While it lives, Reclaim touches nothing. The zero value is no process.
	Host Identity `json:"host,omitzero"`
}

// WriteLease replaces the file at path as a whole, with mode 0600. It does not sync: a lease means nothing after a
// power failure, which ends the child as well. Errors are the file system's.
func WriteLease(path string, lease Lease) error {
	raw, err := json.Marshal(lease)
	if err != nil {
		return fmt.Errorf("encode lease: %w", err)
	}
	// CreateTemp makes the file with 0600. The same directory makes the rename atomic.
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("write lease: %w", err)
	}
	_, err = file.Write(raw)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write lease: %w", errors.Join(err, removeIfThere(file.Name())))
	}
	return nil
}

// readLease reads the file at path. The error wraps fs.ErrNotExist when there is none, and ErrLeaseCorrupt when it
// cannot be understood or names a process or group that can never be a child.
func readLease(path string) (Lease, error) {
	file, err := os.Open(path)
	if err != nil {
		return Lease{}, fmt.Errorf("read lease: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxLease))
	if err != nil {
		return Lease{}, fmt.Errorf("read lease: %w", err)
	}
	var lease Lease
	if err := json.Unmarshal(raw, &lease); err != nil {
		return Lease{}, fmt.Errorf("%w: %s: %w", ErrLeaseCorrupt, path, err)
	}
	if err := lease.check(); err != nil {
		return Lease{}, fmt.Errorf("%w: %s: %w", ErrLeaseCorrupt, path, err)
	}
	return lease, nil
}

// check keeps pids out that kill(2) takes for something else: 0 is the caller's group, 1 is init, -1 is everybody.
func (l Lease) check() error {
	switch {
	case l.Identity.PID <= 1:
		return fmt.Errorf("impossible pid %d", l.Identity.PID)
	case l.Identity.StartTime == "":
		return errors.New("no start time")
	case l.PGID != 0 && l.PGID != l.Identity.PID:
		return fmt.Errorf("group %d is not led by pid %d", l.PGID, l.Identity.PID)
	}
	return nil
}

// RemoveLease removes the file at path; one that does not exist is success.
func RemoveLease(path string) error {
	if err := removeIfThere(path); err != nil {
		return fmt.Errorf("remove lease: %w", err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// defaultReclaimWait bounds how long Reclaim waits for what it killed to be gone.
const defaultReclaimWait = 5 * time.Second

// ErrLeaseHeld means that the host that wrote the lease is alive, so this host must not end the child.
var ErrLeaseHeld = errors.New("lease is held by a living host")

// ReclaimOptions tune Reclaim. The zero value is usable.
type ReclaimOptions struct {
	// Wait bounds the wait for the killed to be gone; 0 means defaultReclaimWait.
	Wait time.Duration
	// Logger logs what was found and killed; nil discards it.
	Logger *slog.Logger
}

// Reclaim ends what a killed host left behind, before its files are used again: the leased child, and every member of its
// process group, also when the child itself is gone. No process is signalled by pid, group or name alone: the child is
// proven by its start time; the members by the child that still holds their group number, or else by a start time not
// before the child's together with RunEnv or the leased binary.
//
// It waits until the killed, and those that were ending already, are gone, and removes the lease when nothing is left.
// A missing or corrupt lease is no error; no process is signalled then. It returns the processes that it killed, the leader first. Errors
// wrap ErrLeaseHeld (another living host owns the child), ErrStillAlive (ctx or Wait ended first), ErrNotProven (a
// member could not be proven; the lease stays), or are the operating system's. It must not be called while this process
// itself runs the leased child.
func Reclaim(ctx context.Context, path string, opts ReclaimOptions) (killed []Identity, err error) {
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lease, err := readLease(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, ErrLeaseCorrupt):
		log.Warn("lease is corrupt: no process can be found by it", "error", err)
		return nil, nil
	case err != nil:
		return nil, err
	}
	if lease.heldByAnother() {
		return nil, fmt.Errorf("%w: host pid %d runs pid %d", ErrLeaseHeld, lease.Host.PID, lease.Identity.PID)
	}
	if opts.Wait <= 0 {
		opts.Wait = defaultReclaimWait
	}
	ctx, cancel := context.WithTimeout(ctx, opts.Wait)
	defer cancel()
	killed, err = reclaim(ctx, lease, log)
	if err == nil {
		err = RemoveLease(path)
	}
	return killed, err
}

// heldByAnother lets a host reclaim its own leases: a run of its own may have left members behind.
func (l Lease) heldByAnother() bool {
	return l.Host.PID != os.Getpid() && l.Host != (Identity{}) && l.Host.Alive()
}

// reclaiming is one Reclaim under way.
type reclaiming struct {
	claim  claim
	log    *slog.Logger
	killed []Identity
	seen   map[Identity]bool
	doubts int   // rounds that found only unproven processes
	err    error // of the last round; a kill that failed may work, or be needless, in the next
}

func reclaim(ctx context.Context, lease Lease, log *slog.Logger) ([]Identity, error) {
	h := &reclaiming{
		claim: claim{leader: lease.Identity, binary: lease.Binary, runID: lease.RunID},
		log:   log,
		seen:  make(map[Identity]bool),
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
	if err != nil {
		err = fmt.Errorf("reclaim group %d: %w", lease.Identity.PID, err)
	}
	return h.killed, err
}

// round kills the processes that are there and reports whether there were none. Every round looks anew, because a member may have
// started another one just before it was killed.
func (h *reclaiming) round() (done bool) {
	found, err := h.claim.survey()
	h.err = err
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

// maxDoubts is how many rounds nothing proves a process before it counts as a stranger: one that is just
// ending has lost its environment and its binary, and not every system reports that it is ending.
const maxDoubts = 6

// dying reports that one of these was proven, and killed, in an earlier round.
func (h *reclaiming) dying(unproven []Identity) bool {
	return slices.ContainsFunc(unproven, func(id Identity) bool { return h.seen[id] })
}

// leaderFirst keeps the watcher from replacing a worker that is killed before it.
func (h *reclaiming) leaderFirst(ids []Identity) []Identity {
	for i, id := range ids {
		if id == h.claim.leader {
			ids[0], ids[i] = ids[i], ids[0]
		}
	}
	return ids
}

func (h *reclaiming) kill(id Identity) {
	if err := id.Kill(); err != nil {
		h.err = err
		return
	}
	if h.seen[id] {
		return
	}
	h.seen[id] = true
	h.killed = append(h.killed, id)
	h.log.Info("killed a process that an earlier host left behind", "pid", id.PID, "run_id", h.claim.runID)
}
