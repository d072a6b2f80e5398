//go:build unix

package process

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

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
	// Asked again after the listing: only then had the leader kept the number all the while.
	held := c.leader.proven()
	var found census
	for _, member := range members {
		switch {
		case !startedNotBefore(member.id.StartTime, c.leader.StartTime):
		case held:
			found.ours = append(found.ours, member.id)
		default:
			found.sort(member.id, c.recognises(member.id.PID))
		}
	}
	return found, nil
}

func (s *census) sort(id Identity, v verdict) {
	switch v {
	case recognised:
		s.ours = append(s.ours, id)
	case unclear:
		s.unproven = append(s.unproven, id)
	case leaving:
		s.ending = append(s.ending, id)
	}
}

type verdict int

const (
	unclear verdict = iota
	recognised
	refused
	leaving
)

// recognises looks at what a process cannot easily lose: the environment it was executed with, and its binary. A mark
// decides either way, because another run may use the same binary.
func (c claim) recognises(pid int) verdict {
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

// KillGroup kills the process group that id leads, if id still owns its pid (running or not yet reaped). When the leader
// is gone nothing proves the members, and none is signalled: the error then wraps ErrNotProven, and [Reclaim] with a
// lease is the way. A group that is gone is success. On Windows, where only the host holds the job, it kills id alone.
func KillGroup(id Identity) error {
	err := signalGroup(id, unix.SIGKILL)
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	return claim{leader: id}.killProven()
}

// groupEmpty is the cheap answer to the common question: there is nobody left, not even a zombie.
func groupEmpty(pgid int) bool {
	return pgid <= 1 || errors.Is(unix.Kill(-pgid, 0), unix.ESRCH)
}
