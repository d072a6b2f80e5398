package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// hostEnv names the variable that makes this program a host to be killed.
const hostEnv = "OSQVISOR_BENCH_HOST"

// hostRole is the role of such a host.
type hostRole struct{ Binary, Root string }

// Main does what the calling program was started for by a measurement: to be a
// fake osqueryd, a host, or many osqueryds that ping. It then does not return. Otherwise it does nothing. Call it
// first in main and in TestMain.
func Main() {
	osquerydtest.Main()
	play[hostRole](hostEnv)
	play[pingerRole](pingerEnv)
}

// play does not return when the variable sets a role for this program.
func play[R interface{ run() error }](variable string) {
	text := os.Getenv(variable)
	if text == "" {
		return
	}
	var role R
	err := json.Unmarshal([]byte(text), &role)
	if err == nil {
		err = role.run()
	}
	_, _ = fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// run is a host that says when it is ready, and then waits for its end: that of
// the process that reads its standard output, or its own by kill -9.
func (h hostRole) run() error {
	env := &Env{Binary: h.Binary}
	s, err := env.startSet(context.Background(), setOptions{n: 1, root: h.Root, watchdog: true})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return errors.Join(err, s.stop())
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	return s.stop()
}
