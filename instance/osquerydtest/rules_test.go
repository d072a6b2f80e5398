package osquerydtest

import (
	"testing"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// The engine passes phases and faults by the names that a Script has for them.
func TestNamesAreTheEngines(t *testing.T) {
	engine := []fakeosqueryd.Phase{
		fakeosqueryd.PhaseStart, fakeosqueryd.PhaseBeforePidfile, fakeosqueryd.PhaseAfterPidfile, fakeosqueryd.PhaseBeforeDatabase,
		fakeosqueryd.PhaseAfterDatabase, fakeosqueryd.PhaseBeforeSocket, fakeosqueryd.PhaseAfterSocket, fakeosqueryd.PhaseRequire,
		fakeosqueryd.PhaseConfig, fakeosqueryd.PhaseLogger, fakeosqueryd.PhaseReady, fakeosqueryd.PhaseRegister,
		fakeosqueryd.PhaseCall, fakeosqueryd.PhaseQuery, fakeosqueryd.PhaseScheduled, fakeosqueryd.PhaseStop, fakeosqueryd.PhaseStopped,
	}
	for i, ph := range phases {
		if i >= len(engine) || string(engine[i]) != string(ph) {
			t.Errorf("phase %s is not the engine's", ph)
		}
	}
	for kind, fault := range map[Kind]fakeosqueryd.FaultKind{
		Reset: fakeosqueryd.Reset, Rubbish: fakeosqueryd.Rubbish, Truncate: fakeosqueryd.Truncate,
		Huge: fakeosqueryd.Huge, Refuse: fakeosqueryd.Refuse,
	} {
		if string(kind) != string(fault) {
			t.Errorf("%s is the engine's %s", kind, fault)
		}
	}
	for role, engine := range map[Role]fakeosqueryd.Role{
		RoleWatcher: fakeosqueryd.RoleWatcher, RoleWorker: fakeosqueryd.RoleWorker, RoleSingle: fakeosqueryd.RoleSingle,
	} {
		if string(role) != string(engine) {
			t.Errorf("%s is the engine's %s", role, engine)
		}
	}
}
