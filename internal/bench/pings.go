package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// pingerEnv names the variable that makes this program a pinger.
const pingerEnv = "OSQVISOR_BENCH_PINGER"

// pingEvery is osqueryd's extensions_interval.
const pingEvery = 3 * time.Second

// pingerRole is what such a program is to do: to ping the sockets 0 to N-1 in a
// directory in place of N osqueryds.
type pingerRole struct {
	Dir string
	N   int
}

// run pings each socket every pingEvery, on a connection of its own each time, as
// osqueryd does, until it is killed or a socket is gone.
func (p pingerRole) run() error {
	tick := time.NewTicker(pingEvery / time.Duration(p.N))
	defer tick.Stop()
	for i := 0; ; i++ {
		if err := ping(filepath.Join(p.Dir, strconv.Itoa(i%p.N))); err != nil {
			return err
		}
		<-tick.C
	}
}

// ping sends about as much as osqueryd does, and waits for as much.
func ping(socket string) error {
	conn, err := dialSocket(context.Background(), socket)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	message := make([]byte, 32)
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err = conn.Read(message)
	return err
}

// echoes are the sockets of n extensions that know nothing but to answer a ping.
type echoes struct {
	listeners []net.Listener
	wait      sync.WaitGroup
}

func (e *echoes) listen(socket string) error {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", socket)
	if err != nil {
		return err
	}
	e.listeners = append(e.listeners, l)
	e.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			e.wait.Go(func() { echo(conn) })
		}
	})
	return nil
}

func echo(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 64)
	for {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (e *echoes) close() {
	for _, l := range e.listeners {
		_ = l.Close()
	}
	e.wait.Wait()
}

// idleFloor returns the CPU that it takes a Go program to do nothing but answer the
// pings of n osqueryds, in percent of a core.
func (e *Env) idleFloor(ctx context.Context, n int, watch time.Duration) ([]Sample, error) {
	dir, err := e.newDir()
	if err != nil {
		return nil, err
	}
	answers := &echoes{}
	defer answers.close()
	for i := range n {
		if err := answers.listen(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return nil, err
		}
	}
	stop, err := startPinger(pingerRole{Dir: dir, N: n})
	if err != nil {
		return nil, err
	}
	cpu, err := e.settledShare(ctx, watch)
	return []Sample{{2, Floor, cpu}}, errors.Join(err, stop())
}

// settledShare is cpuShare once the start is over.
func (e *Env) settledShare(ctx context.Context, watch time.Duration) (float64, error) {
	if err := pause(ctx, e.firstCheck()); err != nil {
		return 0, err
	}
	return cpuShare(ctx, watch)
}

// startPinger starts this program as a pinger; stop fails when it had ended by itself.
func startPinger(role pingerRole) (stop func() error, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program for the pinger: %w", err)
	}
	text, err := json.Marshal(role)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self) //nolint:noctx // stop ends it
	cmd.Env = append(os.Environ(), pingerEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the pinger: %w", err)
	}
	return func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // its state tells
		if code := cmd.ProcessState.ExitCode(); code >= 0 {
			return fmt.Errorf("the pinger ended by itself, with code %d: the floor is of fewer pings", code)
		}
		return err
	}, nil
}
