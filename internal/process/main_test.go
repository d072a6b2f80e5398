//go:build unix

package process

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary play a child instead of running tests.
const roleEnv = "PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	role, arg, _ := strings.Cut(os.Getenv(roleEnv), ":")
	if role == "" {
		os.Exit(m.Run())
	}
	play, ok := roles[role]
	if !ok {
		play, ok = systemRoles[role]
	}
	if !ok {
		fmt.Fprintln(os.Stderr, "unknown role", role)
		os.Exit(99)
	}
	play(arg)
}

var roles = map[string]func(arg string){
	"exit":    playExit,
	"sleep":   playSleep,
	"deaf":    playDeaf,
	"big":     playBig,
	"flood":   playFlood,
	"lines":   playLines,
	"env":     playEnv,
	"both":    playBoth,
	"watcher": playWatcher,
	"leaver":  playLeaver,
	"host":    playHost,
	"real":    playReal,
}

func playExit(code string) {
	n, _ := strconv.Atoi(code)
	os.Exit(n)
}

// playSleep prints that it is there and lives until SIGTERM, which it answers with 0.
func playSleep(string) {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	fmt.Println("ready", os.Getpid())
	<-term
	os.Exit(0)
}

func playDeaf(string) {
	signal.Ignore(syscall.SIGTERM)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGWINCH)
	fmt.Println("ready", os.Getpid())
	<-hup
}

// playBig is playDeaf with so much memory that the kernel needs a while to take it back.
func playBig(string) {
	const size = 256 << 20
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		os.Exit(97)
	}
	for at := 0; at < size; at += os.Getpagesize() {
		memory[at] = 1
	}
	playDeaf("")
}

func playFlood(size string) {
	left, _ := strconv.Atoi(size)
	line := append(bytes.Repeat([]byte("x"), 999), '\n')
	out := bufio.NewWriterSize(os.Stderr, 64<<10)
	for ; left > 0; left -= len(line) {
		if _, err := out.Write(line); err != nil {
			os.Exit(96)
		}
	}
	if out.Flush() != nil {
		os.Exit(96)
	}
	fmt.Println("flooded")
}

func playLines(text string) {
	text = strings.NewReplacer("BIG", strings.Repeat("b", 2*MaxLine), "FULL", strings.Repeat("f", MaxLine)).Replace(text)
	fmt.Print(text)
}

func playBoth(string) {
	for i := range 3 {
		fmt.Println("out", i)
		fmt.Fprintln(os.Stderr, "err", i)
	}
}

func playEnv(string) {
	n, err := os.Stdin.Read(make([]byte, 1))
	fmt.Println("stdin", n, err)
	for _, entry := range os.Environ() {
		fmt.Println("env", entry)
	}
}

// descendant starts a process of its own in the same group, or in a session of its own, with the same output.
func descendant(role string, escape bool) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	if exe, err := os.Executable(); err == nil {
		cmd = exec.Command(exe)
	}
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// What the tether or a lease needs must come by inheritance, as with a program that closes nothing.
	for fd := uintptr(3); fd < 10; fd++ {
		if inherited(fd) {
			cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(fd, "inherited"))
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: escape}
	return cmd
}

// playWatcher has a worker that ignores SIGTERM, and lives until SIGTERM.
func playWatcher(role string) {
	if role == "" {
		role = "deaf"
	}
	if err := descendant(role, false).Start(); err != nil {
		fmt.Println("failed", err)
		os.Exit(98)
	}
	playSleep("")
}

// playLeaver ends at once and leaves a descendant that holds its output.
func playLeaver(where string) {
	role := "deaf"
	if where == "big" {
		role = where
	}
	if err := descendant(role, where == "escape").Start(); err != nil {
		os.Exit(98)
	}
	os.Exit(7)
}

// playHost starts a watcher by this package, prints who they are, and lives until it is killed.
func playHost(flags string) {
	spec := roleSpec("watcher", func(line []byte) { fmt.Printf("%s\n", line) })
	spec.NoTether = strings.Contains(flags, "notether")
	spec.NoParentDeathSignal = strings.Contains(flags, "nosignal")
	spec.RunID = "host-run"
	p, err := Start(context.Background(), spec)
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(97)
	}
	if _, path, ok := strings.Cut(flags, "="); ok {
		host, _ := Identify(os.Getpid())
		err = WriteLease(path, Lease{Identity: p.Identity(), PGID: p.PID(), Binary: spec.Path, RunID: p.RunID(), Host: host})
	}
	fmt.Println("child", p.PID(), p.box.tethered(), err)
	<-p.Exited()
}

// playReal is playHost with a real osqueryd, whose binary and directory are the argument's last two fields.
func playReal(arg string) {
	fields := strings.SplitN(arg, ":", 3)
	bin, dir := fields[1], fields[2]
	p, err := Start(context.Background(), Spec{
		Path: bin, Args: []string{
			"osqueryd", "--flagfile=", "--config_path=" + dir + "/none", "--database_path=" + dir + "/db", "--pidfile=" + dir + "/pid",
			"--extensions_socket=" + dir + "/em", "--extensions_autoload=", "--logger_path=" + dir, "--disable_events",
		},
		NoTether: strings.Contains(fields[0], "notether"), NoParentDeathSignal: strings.Contains(fields[0], "nosignal"),
	})
	if err != nil {
		fmt.Println("failed", err)
		os.Exit(97)
	}
	fmt.Println("child", p.PID(), p.box.tethered())
	<-p.Exited()
}

// raceEnv keeps the race detector from sleeping for a second at the end of each child.
const raceEnv = "GORACE=atexit_sleep_ms=0"

func roleSpec(role string, stdout func([]byte)) Spec {
	exe, _ := os.Executable()
	return Spec{Path: exe, Args: []string{"osq-" + role}, Env: []string{roleEnv + "=" + role, raceEnv}, Stdout: stdout}
}

const patience = 10 * time.Second

// listener collects lines and hands each on as it comes.
type listener chan string

func newListener() listener { return make(listener, 100) }

func (l listener) hear(line []byte) { l <- string(line) }

// expect waits for n lines "prefix PID …" and returns their fields.
func (l listener) expect(t *testing.T, prefix string, n int) [][]string {
	t.Helper()
	var found [][]string
	timeout := time.After(patience)
	for len(found) < n {
		select {
		case line := <-l:
			if strings.HasPrefix(line, prefix+" ") {
				found = append(found, strings.Fields(line))
			}
		case <-timeout:
			t.Fatalf("got %d of %d lines beginning with %q", len(found), n, prefix)
		}
	}
	return found
}

func (l listener) ready(t *testing.T, n int) []Identity {
	t.Helper()
	var ids []Identity
	for _, fields := range l.expect(t, "ready", n) {
		pid, _ := strconv.Atoi(fields[1])
		id, err := Identify(pid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { id.Kill() })
		ids = append(ids, id)
	}
	return ids
}

func mustStart(t *testing.T, spec Spec) *Process {
	t.Helper()
	p, err := Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.KillGroup()
		<-p.Exited()
	})
	return p
}

func mustExit(t *testing.T, p *Process) Exit {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(patience):
		t.Fatalf("pid %d did not exit", p.PID())
	}
	return p.Exit()
}

func mustGo(t *testing.T, within time.Duration, ids ...Identity) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for _, id := range ids {
		if err := waitUntil(ctx, func() bool { return !id.Alive() }); err != nil {
			t.Errorf("pid %d: %v after %v", id.PID, err, within)
		}
	}
}

func mustGroupGo(t *testing.T, p *Process) {
	t.Helper()
	if err := waitGroup(p); err != nil {
		t.Error(err)
	}
}

func waitGroup(p *Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.WaitGroupGone(ctx)
}
