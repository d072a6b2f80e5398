package thriftconn

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// prompt is within how long a call must return after its context ended.
const prompt = 100 * time.Millisecond

// hanging is a fake manager whose query waits until release is closed.
func hanging(t *testing.T) (f *fakeManager, started, release chan struct{}) {
	t.Helper()
	started, release = make(chan struct{}, 100), make(chan struct{})
	f = &fakeManager{query: func(string) *osquery.ExtensionResponse {
		started <- struct{}{}
		<-release
		return rowsResponse()
	}}
	return f, started, release
}

func TestCancelledCallReturnsAtOnceAndBreaksTheConnection(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	c := dialFake(t, f)
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() {
		_, err := c.Query(ctx, "")
		result <- err
	}()
	testhelp.Wait(t, "the query", started)
	cancelled := time.Now()
	cancel()
	err := <-result
	if took := time.Since(cancelled); took > prompt {
		t.Errorf("the call returned after %v", took)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); !errors.Is(err, ErrBroken) {
		t.Errorf("a later call got %v", err)
	}
}

func TestContextThatEndedBeforeTheCallBreaksNothing(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, &fakeManager{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := ping(ctx, c); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestContextThatEndsAfterTheCallBreaksNothing(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, &fakeManager{})
	for range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		if err := ping(ctx, c); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

func TestWaitingForTheTurnEndsWithTheContext(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	c := dialFake(t, f)
	result := make(chan error, 1)
	go func() {
		_, err := c.Query(context.Background(), "")
		result <- err
	}()
	testhelp.Wait(t, "the query", started)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := ping(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	close(release)
	if err := <-result; err != nil {
		t.Fatalf("a caller that gave up waiting broke the query in flight: %v", err)
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestCloseEndsTheCallInFlight(t *testing.T) {
	testhelp.CheckLeaks(t)
	f, started, release := hanging(t)
	c := dialFake(t, f)
	t.Cleanup(func() { close(release) })
	result := make(chan error, 1)
	go func() {
		_, err := c.Query(testhelp.Context(t), "")
		result <- err
	}()
	testhelp.Wait(t, "the query", started)
	_ = c.Close()
	_ = c.Close()
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); !errors.Is(err, ErrClosed) {
		t.Fatalf("a later call got %v", err)
	}
}

func TestPeerThatGoesAwayIsATransportError(t *testing.T) {
	ours, theirs := net.Pipe()
	c := NewConn(ours)
	go func() {
		_, _ = theirs.Read(make([]byte, 1000))
		_ = theirs.Close()
	}()
	err := ping(testhelp.Context(t), c)
	var transport *TransportError
	if !errors.As(err, &transport) || !errors.Is(err, io.EOF) || transport.Method != methodPing {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); !errors.Is(err, ErrBroken) {
		t.Fatalf("a later call got %v", err)
	}
}

func TestRequestThatIsTooLargeBreaksNothing(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, &fakeManager{}, WithMaxMessage(1000))
	_, err := c.Query(testhelp.Context(t), string(make([]byte, 1000)))
	if !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestAnswerThatIsTooLarge(t *testing.T) {
	testhelp.CheckLeaks(t)
	c := dialFake(t, answering(sampleRows(1000)...), WithMaxMessage(1000))
	if _, err := c.Query(testhelp.Context(t), ""); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); !errors.Is(err, ErrBroken) {
		t.Fatalf("a later call got %v", err)
	}
}

func TestDialFailureIsTyped(t *testing.T) {
	path := socketPath(t)
	_, err := Dial(testhelp.Context(t), path)
	var fail *DialError
	if !errors.As(err, &fail) || fail.Path != path || fail.Attempts != 1 || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %#v", err)
	}
}

func TestDialUntilConnectsAsSoonAsTheSocketAnswers(t *testing.T) {
	testhelp.CheckLeaks(t)
	path := socketPath(t)
	result := make(chan error, 1)
	go func() {
		c, err := DialUntil(testhelp.Context(t), path, nil)
		if err == nil {
			err = ping(testhelp.Context(t), c)
			_ = c.Close()
		}
		result <- err
	}()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	accepting(t, l, serveGenerated(osquery.NewExtensionManagerProcessor(&fakeManager{})))
	if err := <-result; err != nil {
		t.Fatal(err)
	}
}

func TestDialUntilGivesUp(t *testing.T) {
	testhelp.CheckLeaks(t)
	path := socketPath(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := DialUntil(ctx, path, nil)
	var fail *DialError
	if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &fail) || fail.Attempts == 0 || fail.Last == nil {
		t.Fatalf("got %v", err)
	}
	stop := make(chan struct{})
	close(stop)
	if _, err := DialUntil(testhelp.Context(t), path, stop); !errors.Is(err, ErrStopped) {
		t.Fatalf("got %v", err)
	}
}

func TestDialWaitStaysShort(t *testing.T) {
	for waited, want := range map[time.Duration]time.Duration{
		0:                     time.Millisecond,
		64 * time.Millisecond: 2 * time.Millisecond,
		time.Hour:             25 * time.Millisecond,
	} {
		if got := dialWait(waited); got != want {
			t.Errorf("after %v it waits %v instead of %v", waited, got, want)
		}
	}
}

func TestDeadlineDuringAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c := NewConn(ours)
		go func() {
			defer func() { _ = theirs.Close() }()
			buf := make([]byte, 1000)
			_, _ = theirs.Read(buf)
			_, _ = theirs.Write(appendHeader(nil, messageReply, methodPing, 1))
			_, _ = theirs.Read(buf) // until we are gone
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		start := time.Now()
		err := ping(ctx, c)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		if !c.Broken() {
			t.Fatal("half an answer left the connection open")
		}
	})
}
