package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// startQueue makes a queue on a fake manager.
func startQueue(t testing.TB, f *fakeManager, opts ...QueueOption) (*QueryQueue, string) {
	t.Helper()
	path := startFake(t, f)
	q := NewQueryQueue(nil, opts...)
	t.Cleanup(func() { _ = q.Close() })
	q.Reset(path)
	return q, path
}

// inBackground runs a query and returns its error.
func inBackground(ctx context.Context, q *QueryQueue, sql string) <-chan error {
	result := make(chan error, 1)
	go func() {
		_, err := q.Query(ctx, sql)
		result <- err
	}()
	return result
}

func TestQueueRunsOneQueryAtATime(t *testing.T) {
	testhelp.CheckLeaks(t)
	var now, most atomic.Int32
	q, _ := startQueue(t, &fakeManager{query: func(sql string) *osquery.ExtensionResponse {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		return rowsResponse(map[string]string{"sql": sql})
	}})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				sql := fmt.Sprint(g, i)
				rows, err := q.Query(testhelp.Context(t), sql)
				if err != nil || cell(rows) != sql {
					t.Errorf("query %s got %q, %v", sql, cell(rows), err)
				}
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d queries ran at once", most.Load())
	}
	if s := q.Stats(); s != (QueueStats{}) {
		t.Errorf("stats %+v", s)
	}
}

func TestQueueCancellationIsPromptAndPoisonsNothing(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	hang := f.query
	f.query = func(sql string) *osquery.ExtensionResponse {
		if sql == "slow" {
			return hang(sql)
		}
		return rowsResponse(map[string]string{"sql": sql})
	}
	q, _ := startQueue(t, f)
	ctx, cancel := context.WithCancel(context.Background())
	result := inBackground(ctx, q, "slow")
	testhelp.Wait(t, "the query", started)
	cancelled := time.Now()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if took := time.Since(cancelled); took > prompt {
		t.Errorf("the caller got free after %v", took)
	}
	next := inBackground(testhelp.Context(t), q, "next")
	testhelp.Until(t, "the next query to look at the drain", func() bool { return q.Stats().Draining == 1 })
	close(release)
	if err := <-next; err != nil {
		t.Fatal(err)
	}
	rows, err := q.Query(testhelp.Context(t), "after")
	if err != nil || cell(rows) != "after" {
		t.Fatalf("got %q, %v: a late answer was taken for this one's", cell(rows), err)
	}
	if s := q.Stats(); s != (QueueStats{}) {
		t.Errorf("stats %+v", s)
	}
}

func TestQueueWaiterGivesUpAlone(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	q, _ := startQueue(t, f)
	first := inBackground(testhelp.Context(t), q, "")
	testhelp.Wait(t, "the query", started)
	ctx, cancel := context.WithCancel(context.Background())
	second := inBackground(ctx, q, "")
	third := inBackground(testhelp.Context(t), q, "")
	testhelp.Until(t, "two to wait", func() bool { return q.Stats().Waiting == 2 })
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) || !errors.Is(err, ErrWaiting) {
		t.Fatalf("got %v", err)
	}
	close(release)
	if err := errors.Join(<-first, <-third); err != nil {
		t.Fatal(err)
	}
	if s := q.Stats(); s != (QueueStats{}) {
		t.Errorf("stats %+v", s)
	}
}

func TestQueueRefusalKeepsTheConnection(t *testing.T) {
	testhelp.CheckLeaks(t)
	f := &fakeManager{query: func(string) *osquery.ExtensionResponse {
		return &osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: "syntax error"}}
	}}
	path := startFake(t, f)
	dials := 0
	q := NewQueryQueue(func(ctx context.Context, path string) (*Conn, error) {
		dials++
		return Dial(ctx, path)
	})
	defer func() { _ = q.Close() }()
	q.Reset(path)
	for range 3 {
		var status *StatusError
		if _, err := q.Query(testhelp.Context(t), ""); !errors.As(err, &status) {
			t.Fatalf("got %v", err)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections", dials)
	}
}

func TestQueueReplacesAConnectionThatDiedIdle(t *testing.T) {
	testhelp.CheckLeaks(t)
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{}, 3)
	accepting(t, l, func(nc net.Conn) { // answers once and goes away
		buf := make([]byte, 1000)
		if _, err := nc.Read(buf); err == nil {
			_, _ = nc.Write(encodeAnswer(t, rowsResponse(), &thrift.TConfiguration{}))
			_ = nc.Close()
			closed <- struct{}{}
		}
	})
	q := NewQueryQueue(nil)
	defer func() { _ = q.Close() }()
	q.Reset(path)
	for range 3 {
		if _, err := q.Query(testhelp.Context(t), ""); err != nil {
			t.Fatal(err)
		}
		testhelp.Wait(t, "the peer to go away", closed)
	}
}

func TestQueueLosesAConnectionInFlight(t *testing.T) {
	testhelp.CheckLeaks(t)
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	accepting(t, l, func(nc net.Conn) { _, _ = nc.Read(make([]byte, 1000)) })
	q := NewQueryQueue(nil)
	defer func() { _ = q.Close() }()
	q.Reset(path)
	if _, err := q.Query(testhelp.Context(t), ""); !errors.Is(err, ErrConnectionLost) || !errors.Is(err, io.EOF) {
		t.Fatalf("got %v", err)
	}
	q.Reset(startFake(t, answering()))
	if _, err := q.Query(testhelp.Context(t), ""); err != nil {
		t.Fatal(err)
	}
}

func TestQueueEachAndColumns(t *testing.T) {
	testhelp.CheckLeaks(t)
	q, _ := startQueue(t, answering(sampleRows(10)...))
	n := 0
	if err := q.QueryEach(testhelp.Context(t), "", func(Row) error { n++; return nil }); err != nil || n != 10 {
		t.Fatalf("%d rows, %v", n, err)
	}
	if err := q.QueryEach(testhelp.Context(t), "", func(Row) error { return errFake }); !errors.Is(err, errFake) {
		t.Fatalf("got %v", err)
	}
	rows, err := q.QueryColumns(testhelp.Context(t), "select 1 as x")
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, rows, []map[string]string{{"name": "x", "type": "TEXT", "sql": "select 1 as x"}})
}

func TestQueueSurvivesAPanicOfACallback(t *testing.T) {
	testhelp.CheckLeaks(t)
	q, _ := startQueue(t, answering(sampleRows(10)...))
	func() {
		defer func() { _ = recover() }()
		_ = q.QueryEach(testhelp.Context(t), "", func(Row) error { panic("mine") })
	}()
	if _, err := q.Query(testhelp.Context(t), ""); err != nil {
		t.Fatal(err)
	}
}
