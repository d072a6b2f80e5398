package extension

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
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/internal/spool"
)

// flaky fails about every second call, in all the ways there are but for good:
// before and after it took the batch, at once and by running out of time.
func flaky(mem *Memory, seed uint64) Transport {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	return Funcs{LogsFunc: func(ctx context.Context, n Node, b Batch) error {
		mu.Lock()
		dice := rnd.IntN(12)
		mu.Unlock()
		if len(b.Lines) > 100 {
			return ErrTooLarge
		}
		switch dice {
		case 0:
			return errDown
		case 1:
			return RetryAfter(time.Second, errDown)
		case 2:
			<-ctx.Done()
			return ctx.Err()
		}
		err := mem.take(n.Instance, b)
		switch dice {
		case 3:
			return errors.Join(errDown, err)
		case 4:
			<-ctx.Done()
			return ctx.Err()
		}
		return err
	}}
}

// take keeps a batch without asking for a node key.
func (m *Memory) take(instance string, b Batch) error {
	m.mu.Lock()
	key := m.node(instance).key
	if key == "" {
		key = "k"
		m.node(instance).key = key
	}
	m.mu.Unlock()
	return m.PublishLogs(context.Background(), Node{Instance: instance, Key: key}, b)
}

// TestPromiseNothingAcknowledgedIsLost compares what osqueryd was told is stored
// with what the server has, over failures and restarts.
func TestPromiseNothingAcknowledgedIsLost(t *testing.T) {
	const instances, lines, rounds = 3, 2000, 4
	bubble(t, func(t *testing.T) {
		mem := NewMemory()
		var wg sync.WaitGroup
		for i := range instances {
			id := fmt.Sprintf("i%d", i)
			dir := t.TempDir()
			wg.Go(func() { soakOne(t, mem, id, dir, lines, rounds, uint64(i)) })
		}
		wg.Wait()
		for i := range instances {
			id := fmt.Sprintf("i%d", i)
			checkSoak(t, mem.Logs(id, QueueResults), lines*rounds)
			if mem.Repeats(id) == 0 {
				t.Errorf("%s: no batch came twice; the test shows nothing", id)
			}
		}
	})
}

func soakOne(t *testing.T, mem *Memory, id, dir string, lines, rounds int, seed uint64) {
	n := 0
	for round := range rounds {
		r := newRig(t, dir, WithTransport(flaky(mem, seed+uint64(round))), WithNode(func() Node { return Node{Instance: id} }),
			WithLogBatch(50+round*30, 1<<20, 100*time.Millisecond), WithDrain(time.Second))
		stop := r.start()
		for range lines {
			r.log("string", fmt.Sprintf(`{"line":%d}`, n))
			n++
		}
		if round < rounds-1 {
			time.Sleep(time.Duration(round) * time.Second)
		} else {
			time.Sleep(1000 * time.Hour)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		r.shut()
	}
}

// checkSoak checks that got is exactly the lines 0 to n-1, in order.
func checkSoak(t *testing.T, got []string, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d lines were delivered, of %d", len(got), n)
	}
	for i, l := range got {
		if l != fmt.Sprintf(`{"line":%d}`, i) {
			t.Fatalf("line %d is %s", i, l)
		}
	}
}

// TestPromiseKillLosesNothing kills the host's process again and again. The child
// appends lines, and says so on its stdout once each is acknowledged; a file
// stands for the server.
func TestPromiseKillLosesNothing(t *testing.T) {
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
	r := newRig(t, filepath.Join(dir, "i"), WithTransport(fileServer(dir, s, false)))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	checkDelivered(t, dir, last)
}

// killRound runs a child for a while and gives the last line that it says was
// acknowledged, or before if there is none.
func killRound(t *testing.T, dir string, before int) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPromiseKillLosesNothing$")
	cmd.Env = append(os.Environ(), "EXTENSION_TEST_CHILD="+dir, fmt.Sprintf("EXTENSION_TEST_FROM=%d", before))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan, last, want := bufio.NewScanner(out), before, before+100+rand.IntN(400)
	for scan.Scan() {
		if _, err := fmt.Sscanf(scan.Text(), "ack %d", &last); err == nil && last >= want {
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); err == nil || last < want {
		t.Fatalf("the child ended by itself after line %d: %v", last, err)
	}
	return last
}

func killChild(t *testing.T, dir string) {
	from := 0
	if _, err := fmt.Sscan(os.Getenv("EXTENSION_TEST_FROM"), &from); err != nil {
		t.Fatal(err)
	}
	e, err := New(WithNode(testNode), WithDir(filepath.Join(dir, "i")), WithTransport(fileServer(dir, &sink{}, true)),
		WithLogBatch(20, 1<<20, time.Millisecond), WithBackoff(time.Millisecond, 10*time.Millisecond), WithSync(SyncNever()))
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
func fileServer(dir string, s *sink, flaky bool) Transport {
	return Funcs{LogsFunc: func(ctx context.Context, n Node, b Batch) error {
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
		if err = errors.Join(err, f.Close()); err != nil || dice == 1 {
			return errors.Join(err, errDown)
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
	seen, repeats, at, again := map[string]bool{}, 0, 0, 0
	for _, text := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var b struct {
			ID    string
			Lines []string
		}
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Fatal(err)
		}
		if seen[b.ID] {
			repeats++
			continue
		}
		seen[b.ID] = true
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

// stubbornCursor is a queue whose acknowledgements fail for a while.
type stubbornCursor struct {
	queue
	failures int
}

func (s *stubbornCursor) Ack(last uint64) error {
	if s.failures--; s.failures >= 0 {
		return spool.ErrIO
	}
	return s.queue.Ack(last)
}

func TestFailingAcknowledgementSendsNothingTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), WithLogBatch(2, 1<<20, 0))
		r.shippers[0].q = &stubbornCursor{queue: r.shippers[0].q, failures: 3}
		want := r.logLines(6)
		r.start()
		time.Sleep(time.Hour)
		synctest.Wait()
		sameLines(t, s.lines(), want)
		equal(t, "waiting", r.Pending()["results"], 0)
	})
}

func TestOneGoroutineWhileIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), WithTransport(NewMemory()), WithSync(SyncEvery(time.Second)))
		r.Registry()
		stop := r.start()
		r.config()
		r.logLines(5)
		r.getQueries()
		equal(t, "goroutines before", strings.Contains(goroutines(), "Extension).Run"), true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if all := goroutines(); strings.Contains(all, "\n\n") || !strings.Contains(all, "Extension).Run") {
			t.Errorf("an idle extension has\n%s", all)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		equal(t, "goroutines after the end", goroutines(), "")
	})
}

// goroutines gives the stacks of the goroutines of this package, but for tests.
func goroutines() string {
	buf := make([]byte, 1<<20)
	var out []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "osqvisor/extension.") && !strings.Contains(g, "testing.tRunner(") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}

func TestTransportThatIgnoresItsContextLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		hang := make(chan struct{})
		var calls atomic.Int32
		r := newRig(t, t.TempDir(), WithLogBatch(2, 1<<20, 0), WithTransportTimeout(time.Second),
			WithTransport(Funcs{LogsFunc: func(ctx context.Context, n Node, b Batch) error {
				if calls.Add(1) == 1 {
					<-hang
				}
				return s.publish(ctx, n, b)
			}}))
		r.start()
		want := r.logLines(4)
		time.Sleep(5 * time.Minute)
		equal(t, "calls beside the one that hangs", calls.Load(), 1)
		close(hang)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		sameLines(t, s.lines()[2:], want) // the first batch came twice
		sameLines(t, s.ids()[:2], []string{"a/results/1-2", "a/results/1-2"})
	})
}
