//go:build unix

package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// container is what holds a child and its descendants together: the process group, and the tether where there is one.
type container struct{ tether *tether }

func newContainer(spec *Spec) (*container, error) {
	if spec.NoTether || spec.spareGroup {
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
	err := killGroup(leader)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

func (c *container) release() { c.tether.close() }

// Terminate requests the end of the child: SIGTERM to the leader only. On Windows, which has no such request, it ends the whole
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

// groupAlive reports whether any member of the group (on Windows: of the job) still runs. Zombies do not count. When it
// cannot be known, it is true. On Linux it may read the status of every process of the system.
func (p *Process) groupAlive() bool {
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

// claim is what makes processes ours: the leader of their group, and what its members can be known by when it is gone.
type claim struct {
	leader Identity
	binary string
	runID  string
}

// census is one look at a group. Zombies are in neither list.
type census struct {
	ours     []Identity
	unproven []Identity // in the group and young enough, but neither binary nor mark could be confirmed
	ending   []Identity // likewise, because they are on their way out
}

// survey finds the members. The group number belongs to us as long as the leader owns its pid; another process with
// the leader's pid means that our group was empty at some time, so whoever is in it now is a stranger.
func (c claim) survey() (census, error) {
	leader, err := probe(c.leader.PID)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return census{}, err
	}
	if err == nil && leader.id != c.leader {
		return census{}, nil
	}
	members, err := groupMembers(c.leader.PID)
	if err != nil {
		return census{}, fmt.Errorf("list process group %d: %w", c.leader.PID, err)
	}
	// Checked again after the listing: only then had the leader kept the number all the while.
	held := c.leader.proven()
	var found census
	for _, member := range members {
		switch {
		case !startedNotBefore(member.id.StartTime, c.leader.StartTime):
		case held:
			found.ours = append(found.ours, member.id)
		default:
			found.add(member.id, c.recognises(member.id.PID))
		}
	}
	return found, nil
}

func (s *census) add(id Identity, p proof) {
	switch p {
	case recognised:
		s.ours = append(s.ours, id)
	case unclear:
		s.unproven = append(s.unproven, id)
	case leaving:
		s.ending = append(s.ending, id)
	}
}

// proof is whether a process is ours.
type proof int

const (
	unclear proof = iota
	recognised
	refused
	leaving
)

// recognises looks at what a process cannot easily lose: the environment it was executed with, and its binary. A mark
// decides either way, because another run may use the same binary.
func (c claim) recognises(pid int) proof {
	mark, marked := readMark(pid)
	if marked && c.runID != "" {
		if mark == c.runID {
			return recognised
		}
		return refused
	}
	same, known := runsBinary(pid, c.binary)
	switch {
	case !known && ending(pid):
		return leaving
	case !known || c.binary == "":
		return unclear
	case same:
		return recognised
	}
	return refused
}

// killProven kills one by one whom the survey proves; each is proven again by its identity.
func (c claim) killProven() error {
	found, err := c.survey()
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range found.ours {
		failed = append(failed, id.Kill())
	}
	if len(found.unproven) > 0 {
		failed = append(failed, fmt.Errorf("%w: %v", ErrNotProven, found.unproven))
	}
	return errors.Join(failed...)
}

// groupEmpty is the cheap answer to the common question: there is nobody left, not even a zombie.
func groupEmpty(pgid int) bool {
	return pgid <= 1 || errors.Is(unix.Kill(-pgid, 0), unix.ESRCH)
}

func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return ErrNotFound
	}
	return err
}

// proven reports whether id still owns its pid, running or as a zombie. As long as it does, neither the pid nor the
// number of the group it leads can belong to anybody else.
func (id Identity) proven() bool {
	info, err := probe(id.PID)
	return err == nil && info.id == id
}

func classify(spec *Spec, err error) *StartError {
	hint, kind := kindOf(spec, err)
	return &StartError{Path: spec.Path, Kind: kind, Hint: hint, Err: err}
}

func kindOf(spec *Spec, err error) (hint string, kind error) {
	switch {
	case !usableDir(spec.Dir):
		return "create " + spec.Dir + " and let this user enter it", ErrDir
	case errors.Is(err, unix.ENOENT):
		return notFound(spec.Path)
	case errors.Is(err, unix.ENOTDIR):
		return "a part of the path is not a directory", ErrBinaryNotFound
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return permissionHint(spec.Path), ErrPermission
	case isWrongFormat(err):
		return fmt.Sprintf("install the build for %s/%s", runtime.GOOS, runtime.GOARCH), ErrNotExecutable
	case errors.Is(err, unix.ETXTBSY):
		return "close the file before starting it, and replace binaries by rename", ErrTextBusy
	case isExhausted(err):
		return "raise the limits on processes and open files, or run fewer instances", ErrResources
	}
	return "", ErrStart
}

// usableDir is called after a failure, because the kernel's error is the same for the directory and the binary.
func usableDir(dir string) bool {
	return dir == "" || unix.Access(dir, unix.X_OK) == nil && isDir(dir)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// notFound distinguishes a missing binary from a missing loader: the kernel reports "no such file" for both.
func notFound(path string) (hint string, kind error) {
	if _, err := os.Stat(path); err == nil {
		return "the file exists, but the loader or interpreter it names does not (another libc?)", ErrNotExecutable
	}
	return "install it or correct the path", ErrBinaryNotFound
}

func permissionHint(path string) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "let this user enter the directories above it"
	case info.IsDir():
		return "it is a directory"
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Sprintf("its mode is %v: make it executable", info.Mode().Perm())
	}
	return fmt.Sprintf("its mode is %v: check its owner, a noexec mount and security modules", info.Mode().Perm())
}

func isExhausted(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}
