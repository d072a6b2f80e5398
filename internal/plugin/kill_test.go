package plugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// TestPromise08KillLosesNothing kills the host's process again and again. The child
// appends lines, and says so on its stdout once each is acknowledged; a file
// stands for the server.
func TestPromise08KillLosesNothing(t *testing.T) {
	if dir := os.Getenv("EXTENSION_TEST_CHILD"); dir != "" {
		killChild(t, dir)
		return
	}
	dir := t.TempDir()
	last := 0
	for range 8 {
		last = killRound(t, dir, last)
	}
	s := &sink{}
	r := newRig(t, filepath.Join(dir, "i"), withTransport(fileServer(dir, s, false)))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkDelivered(t, dir, last)
}

// batchAgain is what a child prints when a batch came again whose answer was lost.
const batchAgain = "again"

// killRound runs a child until lines were acknowledged and a batch came again, and returns
// the last line that it says was acknowledged, or before if there is none.
func killRound(t *testing.T, dir string, before int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPromise08KillLosesNothing$")
	cmd.Env = append(os.Environ(), "EXTENSION_TEST_CHILD="+dir, fmt.Sprintf("EXTENSION_TEST_FROM=%d", before))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan, last, want, again := bufio.NewScanner(out), before, before+1000+rand.IntN(2000), false
	for scan.Scan() {
		_, _ = fmt.Sscanf(scan.Text(), "ack %d", &last) // fails on the other lines
		again = again || scan.Text() == batchAgain
		if last >= want && again {
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err == nil || last < want {
		t.Fatalf("the child ended by itself after line %d: %v", last, err)
	}
	return last
}

func killChild(t *testing.T, dir string) {
	t.Helper()
	from := 0
	if _, err := fmt.Sscan(os.Getenv("EXTENSION_TEST_FROM"), &from); err != nil {
		t.Fatal(err)
	}
	e, err := open(withNode(testNode), withDir(filepath.Join(dir, "i")), withTransport(fileServer(dir, &sink{}, true)),
		withLogBatch(20, 1<<20, time.Millisecond), withBackoff(time.Millisecond, 10*time.Millisecond), withSync(extension.SyncNever))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = e.Run(context.Background()) }()
	for n := from + 1; n < from+100000; n++ {
		e.Call(context.Background(), "logger", "osqvisor", map[string]string{"string": fmt.Sprint(n)})
		fmt.Printf("ack %d\n", n)
	}
}

// fileServer appends what it takes to a file, and when it is flaky fails a third of
// the time, half of those after it took the batch.
func fileServer(dir string, s *sink, flaky bool) extension.Transport {
	var lost string // the newest batch that was accepted without an answer
	return extension.Funcs{LogsFunc: func(ctx context.Context, n extension.Node, b extension.Batch) error {
		dice := 2
		if flaky {
			dice = rand.IntN(6)
		}
		if dice == 0 {
			return errDown
		}
		var lines []string
		for _, l := range b.Lines {
			lines = append(lines, string(l))
		}
		text, err := json.Marshal(map[string]any{"id": b.ID, "lines": lines})
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, "server"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(append(text, '\n'))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if flaky && b.ID == lost {
			fmt.Println(batchAgain)
		}
		if dice == 1 {
			lost = b.ID
			return errDown
		}
		return s.publish(ctx, n, b)
	}}
}

// checkDelivered reads what the file server has: without batches that came again,
// the lines rise one by one and reach last. A line that was written and not yet
// acknowledged when the child was killed may be there twice, as two lines of the
// same number: the child starts over with it.
func checkDelivered(t *testing.T, dir string, last int) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "server"))
	if err != nil {
		t.Fatal(err)
	}
	seen, repeats, at, again := map[string][]string{}, 0, 0, 0
	for _, text := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var b struct {
			ID    string
			Lines []string
		}
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[b.ID]; ok {
			if !slices.Equal(b.Lines, before) {
				t.Fatalf("batch %s came with the lines %q and %q", b.ID, before, b.Lines)
			}
			repeats++
			continue
		}
		seen[b.ID] = b.Lines
		for _, l := range b.Lines {
			var n int
			if _, err := fmt.Sscan(l, &n); err != nil || n > at+1 {
				t.Fatalf("line %q follows %d", l, at)
			}
			if n <= at {
				again++
			}
			at = n
		}
	}
	if at < last {
		t.Errorf("line %d was acknowledged, and the server has %d", last, at)
	}
	if again > 8 || repeats == 0 {
		t.Errorf("%d lines came again in other batches, %d batches came again", again, repeats)
	}
}
