//go:build unix

package process

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// container is what holds a child and its descendants together: the process group, and the tether where there is one.
type container struct{ tether *tether }

func newContainer(spec *Spec) (*container, error) {
	if spec.NoTether || spec.SpareGroup {
		return &container{}, nil
	}
	tether, err := newTether()
	if err != nil {
		return nil, err
	}
	return &container{tether: tether}, nil
}

func (c *container) childFiles() []*os.File { return c.tether.childFiles() }

// adopt does not fail for want of a tether: a sandbox may forbid it, and the parent-death signal and the lease remain.
func (c *container) adopt(_ *os.Process, id Identity) error {
	c.tether.arm(id.PID)
	return nil
}

func (c *container) tethered() bool { return c.tether.armed() }

// killGroup may be called only while the leader is not reaped.
func (c *container) killGroup(leader Identity) error {
	err := signalGroup(leader, unix.SIGKILL)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (c *container) release() { c.tether.close() }

// Terminate asks the child to end: SIGTERM to the leader only. On Windows, which has no such request, it ends the whole
// job at once. A child that has ended already is success.
func (p *Process) Terminate() error {
	err := p.child.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// KillGroup kills the child and everything in its process group (on Windows: in its job) without waiting for the end.
// A group that is gone is success. After the child was reaped, members are killed only if their start time and their
// binary or RunEnv prove them; the error wraps ErrNotProven when others are left.
func (p *Process) KillGroup() error {
	if done, err := p.killHeldGroup(); done {
		return err
	}
	return p.claim.killProven()
}

// killHeldGroup holds off the reaping meanwhile, so that the group number stays ours.
func (p *Process) killHeldGroup() (done bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return false, nil
	}
	return true, p.box.killGroup(p.claim.leader)
}

// GroupAlive reports whether any member of the group (on Windows: of the job) still runs. Zombies do not count. When it
// cannot be told, it says true. On Linux it may read the status of every process of the system.
func (p *Process) GroupAlive() bool {
	found, err := p.claim.survey()
	return err != nil || len(found.ours)+len(found.unproven)+len(found.ending) > 0
}

func signalName(state *os.ProcessState) string {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return ""
	}
	return unix.SignalName(status.Signal())
}
