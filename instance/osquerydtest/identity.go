package osquerydtest

import (
	"slices"
	"strings"
)

// Role is the part that a fake process plays.
type Role string

// The roles.
const (
	// RoleWatcher keeps a worker alive (the watchdog is on).
	RoleWatcher Role = "watcher"
	// RoleWorker owns the socket, the database and the schedule.
	RoleWorker Role = "worker"
	// RoleSingle is the only process of an instance whose watchdog is off.
	RoleSingle Role = "single"
)

// identity is what is known about a fake process.
type identity struct {
	PID     int      `json:"pid"`
	Watcher int      `json:"watcher,omitempty"` // pid, for a worker
	Role    Role     `json:"role"`
	Args    []string `json:"args"`
	Socket  string   `json:"socket,omitempty"`
	DB      string   `json:"db,omitempty"`
	Run     int      `json:"run,omitempty"`    // of the instance, from 1
	Worker  int      `json:"worker,omitempty"` // of the run, from 1
}

// key is equal for all runs of one instance.
func (i identity) key() string {
	if i.DB != "" {
		return i.DB
	}
	if i.Socket != "" {
		return i.Socket
	}
	return strings.Join(slices.Clone(i.Args), " ")
}
