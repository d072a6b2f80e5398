package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestQueueResetInFlight(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	q, _ := startQueue(t, f)
	t.Cleanup(func() { close(release) })
	inFlight := inBackground(testhelp.Context(t), q, "lost")
	testhelp.Wait(t, "the query", started)
	waiting := inBackground(testhelp.Context(t), q, "waits")
	testhelp.Until(t, "one to wait", func() bool { return q.Stats().Waiting == 1 })
	q.Reset(startFake(t, answering()))
	if err := <-inFlight; !errors.Is(err, ErrConnectionLost) {
		t.Errorf("the query in flight got %v", err)
	}
	if err := <-waiting; err != nil {
		t.Errorf("the waiting query got %v", err)
	}
}

// The moment between getting a connection and using it: nothing was sent, so the query runs on the next osqueryd.
func TestQueueResetBeforeTheQueryIsSent(t *testing.T) {
	testhelp.CheckLeaks(t)
	for name, change := range map[string]func(q *QueryQueue, path string){
		"reset": func(q *QueryQueue, path string) { q.Reset(path) },
		"fail":  func(q *QueryQueue, _ string) { q.Fail(errFake) },
		"close": func(q *QueryQueue, _ string) { _ = q.Close() },
	} {
		q, path := startQueue(t, answering())
		ctx := testhelp.Context(t)
		if err := q.acquireTurn(ctx); err != nil {
			t.Fatal(err)
		}
		l, err := q.connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		change(q, path)
		var rows Rows
		again, err := q.runOn(ctx, l, methodQuery, rowsExchange(methodQuery, "", &rows))
		if closed := name == "close"; again == closed || errors.Is(err, ErrClosed) != closed {
			t.Errorf("%s: again %v, %v", name, again, err)
		}
		q.releaseTurn()
	}
}

// An error that a callback met elsewhere is not one of this queue's osqueryd.
func TestQueueEachGivesTheCallersErrorAsItIs(t *testing.T) {
	testhelp.CheckLeaks(t)
	q, _ := startQueue(t, answering(sampleRows(2*chunkRows)...))
	mine := fmt.Errorf("another instance: %w", &TransportError{Method: methodQuery, Err: errFake})
	err := q.QueryEach(testhelp.Context(t), "", func(Row) error { return mine })
	if err != mine { //nolint:errorlint // as it is
		t.Errorf("got %v", err)
	}
}

func TestQueueSuspendHoldsQueriesUntilReset(t *testing.T) {
	testhelp.CheckLeaks(t)
	q, path := startQueue(t, answering())
	if _, err := q.Query(testhelp.Context(t), ""); err != nil {
		t.Fatal(err)
	}
	q.Suspend()
	held := inBackground(testhelp.Context(t), q, "")
	waiting := inBackground(testhelp.Context(t), q, "")
	testhelp.Until(t, "one to wait", func() bool { return q.Stats().Waiting == 1 })
	q.Reset(path)
	if err := errors.Join(<-held, <-waiting); err != nil {
		t.Fatal(err)
	}
}

func TestQueueFail(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	q, _ := startQueue(t, f)
	t.Cleanup(func() { close(release) })
	inFlight := inBackground(testhelp.Context(t), q, "")
	testhelp.Wait(t, "the query", started)
	waiting := inBackground(testhelp.Context(t), q, "")
	testhelp.Until(t, "one to wait", func() bool { return q.Stats().Waiting == 1 })
	q.Fail(errFake)
	if err := <-inFlight; !errors.Is(err, ErrConnectionLost) || !errors.Is(err, errFake) {
		t.Errorf("the query in flight got %v", err)
	}
	if err := <-waiting; !errors.Is(err, errFake) || errors.Is(err, ErrConnectionLost) {
		t.Errorf("the waiting query got %v", err)
	}
	if _, err := q.Query(testhelp.Context(t), ""); !errors.Is(err, errFake) {
		t.Errorf("the next query got %v", err)
	}
	q.Reset(startFake(t, answering()))
	if _, err := q.Query(testhelp.Context(t), ""); err != nil {
		t.Errorf("after Reset: %v", err)
	}
}

func TestQueueClose(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	q, _ := startQueue(t, f)
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(context.Background())
	abandoned := inBackground(ctx, q, "")
	testhelp.Wait(t, "the query", started)
	cancel()
	if err := <-abandoned; !errors.Is(err, context.Canceled) {
		t.Errorf("abandoned: %v", err)
	}
	// Now there is a drainer to join, and its grace to wait for
	inFlight := inBackground(testhelp.Context(t), q, "")
	waiting := inBackground(testhelp.Context(t), q, "")
	testhelp.Until(t, "one to wait", func() bool { return q.Stats().Waiting == 1 })
	for range 2 {
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if s := q.Stats(); s.Draining != 0 {
		t.Errorf("stats %+v", s)
	}
	for _, r := range []<-chan error{inFlight, waiting} {
		if err := <-r; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := q.Query(testhelp.Context(t), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	q.Reset("ignored")
	q.Suspend()
	q.Fail(nil)
}

func TestQueueCloseEndsTheQueryInFlight(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	q, _ := startQueue(t, f)
	t.Cleanup(func() { close(release) })
	inFlight := inBackground(testhelp.Context(t), q, "")
	testhelp.Wait(t, "the query", started)
	_ = q.Close()
	if err := <-inFlight; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// Hammering it from all sides must leave it working, whatever happens.
func TestQueueUnderStress(t *testing.T) {
	testhelp.CheckLeaks(t)
	q, path := startQueue(t, answering(sampleRows(3)...))
	stop := make(chan struct{})
	var background, callers sync.WaitGroup
	background.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			switch i % 3 {
			case 0:
				q.Suspend()
			case 1:
				q.Fail(errFake)
			}
			q.Reset(path)
		}
	})
	for g := range 8 {
		callers.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(g*i)*10*time.Microsecond)
				rows, err := q.Query(ctx, "")
				cancel()
				if err == nil && rows.Len() != 3 {
					t.Errorf("%d rows", rows.Len())
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	background.Wait()
	q.Reset(path)
	if _, err := q.Query(testhelp.Context(t), ""); err != nil {
		t.Fatal(err)
	}
	if s := q.Stats(); s.Waiting != 0 {
		t.Errorf("stats %+v", s)
	}
}
