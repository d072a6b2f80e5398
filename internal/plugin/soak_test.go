package plugin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/spool"
)

// flaky fails about every second call, in all the ways there are but for good:
// before and after it took the batch, at once and by running out of time.
func flaky(mem *extension.Memory, seed uint64) extension.Transport {
	var keys sync.Mutex // a new key makes the one before invalid
	rnd := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	return extension.Funcs{LogsFunc: func(ctx context.Context, n extension.Node, b extension.Batch) error {
		mu.Lock()
		dice := rnd.IntN(12)
		mu.Unlock()
		if len(b.Lines) > 100 {
			return extension.ErrTooLarge
		}
		switch dice {
		case 0:
			return errDown
		case 1:
			return extension.RetryAfter(time.Second, errDown)
		case 2:
			<-ctx.Done()
			return ctx.Err()
		}
		keys.Lock()
		err := take(mem, n.Instance, b)
		keys.Unlock()
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

// take keeps a batch under a new node key.
func take(m *extension.Memory, instance string, b extension.Batch) error {
	ctx := context.Background()
	key, err := m.Enroll(ctx, extension.EnrollRequest{Node: extension.Node{Instance: instance}})
	if err != nil {
		return err
	}
	return m.PublishLogs(ctx, extension.Node{Instance: instance, Key: key}, b)
}

// TestPromise08NothingAcknowledgedIsLost compares what osqueryd was told is stored
// with what the server has, over failures and restarts.
func TestPromise08NothingAcknowledgedIsLost(t *testing.T) {
	const instances, lines, rounds = 3, 2000, 4
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		var wg sync.WaitGroup
		for i := range instances {
			id := fmt.Sprintf("i%d", i)
			dir := t.TempDir()
			wg.Go(func() { soakOne(t, mem, id, dir, lines, rounds, uint64(i)) })
		}
		wg.Wait()
		for i := range instances {
			id := fmt.Sprintf("i%d", i)
			checkSoak(t, mem.Logs(id, extension.QueueResults), lines*rounds)
			if mem.Repeats(id) == 0 {
				t.Errorf("%s: no batch came twice; the test shows nothing", id)
			}
		}
	})
}

func soakOne(t *testing.T, mem *extension.Memory, id, dir string, lines, rounds int, seed uint64) {
	t.Helper()
	n := 0
	for round := range rounds {
		r := newRig(t, dir, withTransport(flaky(mem, seed+uint64(round))),
			withNode(func() extension.Node { return extension.Node{Instance: id} }),
			withLogBatch(50+round*30, 1<<20, 100*time.Millisecond), withDrain(time.Second))
		stop := r.start()
		for range lines {
			r.log("string", fmt.Sprintf(`{"line":%d}`, n))
			n++
		}
		if round < rounds-1 {
			pass(time.Duration(round) * time.Second)
		} else {
			pass(1000 * time.Hour)
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

// stubbornCursor is a queue whose acknowledgements fail for a while.
type stubbornCursor struct {
	delivery.Store
	failures int
}

func (s *stubbornCursor) Ack(last uint64) error {
	if s.failures--; s.failures >= 0 {
		return spool.ErrIO
	}
	return s.Store.Ack(last)
}

func TestFailingAcknowledgementSendsNothingTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withLogBatch(2, 1<<20, 0))
		r.shippers[0].Store = &stubbornCursor{Store: r.shippers[0].Store, failures: 3}
		want := r.logLines(6)
		r.start()
		pass(time.Hour)
		synctest.Wait()
		sameLines(t, s.lines(), want)
		equal(t, "waiting", r.Pending()["results"], 0)
	})
}

func TestOneGoroutineWhileIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, t.TempDir(), withTransport(extension.NewMemory()), withSync(time.Second))
		r.Registry()
		stop := r.start()
		r.config()
		r.logLines(5)
		r.getQueries()
		equal(t, "goroutines before", strings.Contains(goroutines(), "Extension).Run"), true)
		pass(time.Minute)
		synctest.Wait()
		if all := goroutines(); strings.Contains(all, "\n\n") || !strings.Contains(all, "Extension).Run") {
			t.Errorf("an idle extension has\n%s", all)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the last ones are returning
		equal(t, "goroutines after the end", goroutines(), "")
	})
}

// goroutines returns the stacks of the goroutines of this package, but for tests.
func goroutines() string {
	buf := make([]byte, 1<<20)
	var out []string
	for g := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(g, "osqvisor/internal/plugin.") && !strings.Contains(g, "testing.tRunner(") {
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
		r := newRig(t, t.TempDir(), withLogBatch(2, 1<<20, 0), withTransportTimeout(time.Second),
			withTransport(extension.Funcs{LogsFunc: func(ctx context.Context, n extension.Node, b extension.Batch) error {
				if calls.Add(1) == 1 {
					<-hang
				}
				return s.publish(ctx, n, b)
			}}))
		want := r.logLines(4) // before the start: whoever is awake sends one line alone
		r.start()
		pass(5 * time.Minute)
		equal(t, "calls beside the one that hangs", calls.Load(), 1)
		close(hang)
		pass(10 * time.Minute)
		synctest.Wait()
		sameLines(t, s.lines()[2:], want) // the first batch came twice
		sameLines(t, s.ids()[:2], []string{"a/results/1-2", "a/results/1-2"})
	})
}
