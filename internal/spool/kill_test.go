package spool

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const childEnv = "SPOOL_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		os.Exit(writeUntilKilled(dir))
	}
	os.Exit(m.Run())
}

func killOptions() Options {
	return Options{MaxBytes: 64 << 20, SegmentBytes: 4096, MaxRecord: 1024, Sync: SyncNever()}
}

// writeUntilKilled prints each number only after Append returned, and what it acknowledged.
func writeUntilKilled(dir string) int {
	q, rep, err := Open(dir, killOptions())
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	if rep.Missing != 0 || rep.Damages != 0 {
		fmt.Printf("error %+v\n", rep)
		return 1
	}
	for {
		seq, err := q.Append([]byte(killLine(q.Stats().Last + 1)))
		if err != nil {
			fmt.Println("error", err)
			return 1
		}
		fmt.Println("seq", seq)
		if seq%97 == 0 && seq > 50 {
			if err := q.Ack(seq - 50); err != nil {
				fmt.Println("error", err)
				return 1
			}
			fmt.Println("ack", seq-50)
		}
	}
}

func killLine(seq uint64) string {
	return fmt.Sprintf("%d %s", seq, strings.Repeat("k", int(seq*37%600)))
}

func TestKilledWriterLosesNothing(t *testing.T) {
	dir := t.TempDir()
	var seq, ack uint64
	for round := range 12 {
		s, a := runAndKill(t, dir, time.Duration(rand.IntN(60_000))*time.Microsecond)
		if s > 0 && s < seq {
			t.Fatalf("round %d: numbers went back from %d to %d", round, seq, s)
		}
		seq, ack = max(seq, s), max(ack, a)
		checkAfterKill(t, dir, seq, ack)
	}
	if seq < 100 {
		t.Fatalf("only %d lines were written: the test shows nothing", seq)
	}
}

// runAndKill returns the last number and acknowledgement that the child printed.
func runAndKill(t *testing.T, dir string, after time.Duration) (seq, ack uint64) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(out)
	first, err := in.ReadString('\n') // it works: now it may die
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	for line := first; err == nil; line, err = in.ReadString('\n') {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, _ := strconv.ParseUint(rest, 10, 64)
		switch word {
		case "seq":
			seq = n
		case "ack":
			ack = n
		default:
			t.Errorf("child: %s", line)
		}
	}
	if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	return seq, ack
}

func checkAfterKill(t *testing.T, dir string, seq, ack uint64) {
	t.Helper()
	q, rep, err := Open(dir, killOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if rep.Missing != 0 || rep.Damages != 0 || rep.Acked < ack || rep.Next <= seq {
		t.Fatalf("printed %d, acknowledged %d: %+v", seq, ack, rep)
	}
	lines, gaps := drain(t, q, 0)
	for n := rep.Acked + 1; n < rep.Next; n++ {
		if lines[n] != killLine(n) {
			t.Fatalf("line %d of %d is %q, gaps %v", n, seq, lines[n], gaps)
		}
	}
}
