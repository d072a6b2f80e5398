package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// bare is an osqueryd that was started by exec alone.
type bare struct {
	dir    string
	socket string
	cmd    *exec.Cmd
	exited chan struct{}
}

// spawnOptions is what a bare osqueryd is started with.
type spawnOptions struct {
	dir      string // of an earlier one, or empty for a new one
	plugin   string // its config and logger; empty for osqueryd's own
	watchdog bool
}

// spawn starts an osqueryd with the flags that matter of those the SDK sets.
func (e *Env) spawn(o spawnOptions) (*bare, error) {
	b, err := e.spawnUnwaited(o)
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(b.exited)
		_ = b.cmd.Wait()
	}()
	return b, nil
}

// spawnUnwaited leaves it to the caller to wait for the process.
func (e *Env) spawnUnwaited(o spawnOptions) (*bare, error) {
	dir := o.dir
	if dir == "" {
		var err error
		if dir, err = e.newDir(); err != nil {
			return nil, err
		}
	}
	b := &bare{dir: dir, socket: filepath.Join(dir, "s"), exited: make(chan struct{})}
	b.cmd = exec.Command(e.Binary, b.flags(o)...) //nolint:noctx // its end is measured
	b.cmd.SysProcAttr = ownGroup()
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", e.Binary, err)
	}
	return b, nil
}

func (b *bare) flags(o spawnOptions) []string {
	config, logger := "filesystem", "stdout"
	var require []string
	if o.plugin != "" {
		config, logger = o.plugin, o.plugin
		require = []string{"--extensions_require=" + o.plugin, "--extensions_timeout=20"}
	}
	return append(require, "--flagfile=", "--pidfile="+b.dir+"/p", "--database_path="+b.dir+"/d",
		"--extensions_socket="+b.socket, "--extensions_autoload=", "--extensions_interval=3", "--disable_extensions=false",
		"--config_plugin="+config, "--config_path="+b.dir+"/c", "--logger_plugin="+logger, "--logger_path="+b.dir,
		"--logger_stderr=true", "--logger_min_status=0", "--disable_distributed=true", "--disable_events=true",
		"--disable_audit=true", "--alarm_timeout=15", "--host_identifier=uuid",
		"--disable_watchdog="+strconv.FormatBool(!o.watchdog))
}

func (b *bare) hasExited() bool {
	select {
	case <-b.exited:
		return true
	default:
		return false
	}
}

// dial connects as soon as the socket answers.
func (b *bare) dial(ctx context.Context) (net.Conn, error) {
	var conn net.Conn
	err := until(ctx, func() (err error) {
		conn, err = dialSocket(ctx, b.socket)
		return err
	})
	return conn, err
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// killTimeout bounds the wait for a killed process.
const killTimeout = 30 * time.Second

// kill ends the process and all of its group, and waits.
func (b *bare) kill() error {
	if b.hasExited() {
		return nil
	}
	return errors.Join(killGroup(b.cmd.Process.Pid), b.wait())
}

// stop asks the process to end, and waits.
func (b *bare) stop() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return b.wait()
}

func (b *bare) wait() error {
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-b.exited:
		return nil
	case <-timer.C:
		return fmt.Errorf("pid %d does not end", b.cmd.Process.Pid)
	}
}

// killPID ends one process for good.
func killPID(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}
