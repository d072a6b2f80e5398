package gameday

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/internal/process"
)

// helperEnv makes this program one of the other processes that a game needs.
const helperEnv = "GAMEDAY_HELPER"

// helperReady is what a helper prints when it is where it should be.
const helperReady = "ready"

// HelperMain makes the program one of the other processes that a game needs, when its
// environment asks for it, and does not return then. Call it first in main.
func HelperMain() {
	role := os.Getenv(helperEnv)
	if role == "" {
		return
	}
	do := map[string]func([]string) error{"hold": holdFile, "copy": copyFile, "host": hostMain}[role]
	err := fmt.Errorf("there is no helper %q", role)
	if do != nil {
		err = do(os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gameday helper", role+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// helper is another process of this program. It leaves when its input ends, which the
// end of this process brings about as well.
type helper struct {
	cmd   *exec.Cmd
	stdin io.Closer
	ready chan error
}

func startHelper(role string, args ...string) (*helper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, args...) //nolint:noctx // itself, and it is ended by leave
	cmd.Env = append(os.Environ(), helperEnv+"="+role)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("helper %s: %w", role, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("helper %s: %w", role, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("helper %s: %w", role, err)
	}
	h := &helper{cmd: cmd, stdin: stdin, ready: make(chan error, 1)}
	go h.hear(role, stdout)
	return h, nil
}

// hear waits for the one line that a helper prints; it ends with the helper.
func (h *helper) hear(role string, stdout io.Reader) {
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if strings.TrimSpace(line) == helperReady {
		err = nil
	} else {
		err = errors.Join(fmt.Errorf("helper %s said %q", role, line), err)
	}
	h.ready <- err
}

// wait waits until the helper is ready.
func (h *helper) wait(ctx context.Context) error {
	select {
	case err := <-h.ready:
		return err
	case <-ctx.Done():
		return fmt.Errorf("a helper is not ready: %w", context.Cause(ctx))
	}
}

func (h *helper) pid() int { return h.cmd.Process.Pid }

// leave ends the helper and waits for it. One that a fault has killed is gone already.
func (h *helper) leave() error {
	_ = h.stdin.Close()
	_ = h.cmd.Process.Kill() // it may wait for a lock that it never gets
	_ = h.cmd.Wait()         // how it ended does not matter
	return nil
}

// holdFile locks a file as soon as it can, writes its pid into it if told to, and stays.
func holdFile(args []string) error {
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := lockFile(f); err != nil {
		return err
	}
	if len(args) > 1 && args[1] == "pid" {
		if err := f.Truncate(0); err != nil {
			return err
		}
		if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return err
		}
	}
	return stayUntilAlone()
}

// stayUntilAlone reports that all is ready, and returns when the input ends.
func stayUntilAlone() error {
	if _, err := fmt.Println(helperReady); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// copyFile copies a program. It is a process of its own, because a file that is being
// written in this one would be busy for everything that this one starts meanwhile.
func copyFile(args []string) error {
	in, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer in.Close()
	temporary := args[1] + ".new"
	out, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(temporary, args[1])
}

// copyBinary puts a copy of a program at path, at once.
func copyBinary(ctx context.Context, from, path string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, self, from, path)
	cmd.Env = append(os.Environ(), helperEnv+"=copy")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copy %s: %w: %s", from, err, out)
	}
	return nil
}

// alive reports whether the helper still runs.
func (h *helper) alive() bool {
	id, err := process.Identify(h.pid())
	return err == nil && id.Alive()
}
