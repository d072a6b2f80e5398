package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// hostKilledGroup measures a start on the root of a host that was killed with kill
// -9 while its osqueryd ran, watchdog on. The floor is the same start on a clean root.
func hostKilledGroup() Group {
	return Group{
		Name: "host killed", Rounds: 5,
		Rows: []Row{{Work: "start after kill -9 of the host", Unit: "ms", Goal: Goal{Kind: AtMostTimes, Bound: 1.25, Of: Floor}}},
		Open: func(_ context.Context, env *Env) (*Job, error) {
			return &Job{Steps: []Step{
				one(0, Ours, env.startAfterKill),
				one(0, Floor, func(ctx context.Context) (float64, error) {
					began := time.Now()
					l, err := env.startLeast(ctx, spawnOptions{watchdog: true})
					if err != nil {
						return 0, err
					}
					return millis(time.Since(began)), l.close()
				}),
			}}, nil
		},
	}
}

// absence is how long the machine is without a host.
const absence = 2 * time.Second

func (e *Env) startAfterKill(ctx context.Context) (float64, error) {
	root, err := e.newDir()
	if err != nil {
		return 0, err
	}
	if err := e.killedHost(ctx, root); err != nil {
		return 0, err
	}
	if err := pause(ctx, absence); err != nil {
		return 0, err
	}
	s, err := e.newSet(setOptions{n: 1, root: root, watchdog: true})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := s.start(ctx); err != nil {
		return 0, err
	}
	took := time.Since(began)
	return millis(took), s.stop()
}

// killedHost runs a host of its own process until it is ready, and kills it.
func (e *Env) killedHost(ctx context.Context, root string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	role, err := json.Marshal(hostRole{Binary: e.Binary, Root: root})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = append(os.Environ(), hostEnv+"="+string(role))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // its end is the host's, should this process die
	if err != nil {
		return err
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	killErr := cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if err != nil {
		return fmt.Errorf("the host said %q: %w", line, errors.Join(err, killErr))
	}
	return killErr
}
