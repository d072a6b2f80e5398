package process

import "os"

// claim is what makes processes ours. The job object ended the others together with the host, so there is the leader only.
type claim struct {
	leader Identity
	binary string
	runID  string
}

type census struct{ ours, unproven, ending []Identity }

func (c claim) survey() (census, error) {
	if c.leader.Alive() {
		return census{ours: []Identity{c.leader}}, nil
	}
	return census{}, nil
}

// KillGroup kills the process id if it still owns its pid. Its group is the job object, which only the host that made it
// holds and which ended with it. A process that is gone is success.
func KillGroup(id Identity) error { return id.Signal(os.Kill) }
