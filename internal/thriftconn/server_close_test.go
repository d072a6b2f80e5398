package thriftconn

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// blocking is a handler that reports when it runs and waits for its context.
func blocking() (h Handler, running chan struct{}, ended chan error) {
	running, ended = make(chan struct{}, 1), make(chan error, 1)
	return handlerFunc(func(ctx context.Context, _, _ string, _ map[string]string) osquery.ExtensionResponse {
		running <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return okResponse()
	}), running, ended
}

func TestHandlersContextEndsWithTheConnection(t *testing.T) {
	testhelp.CheckLeaks(t)
	h, running, ended := blocking()
	_, path := startServer(t, h)
	nc, err := dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	sendCall(t, nc)
	testhelp.Wait(t, "the call", running)
	_ = nc.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func sendCall(t testing.TB, nc net.Conn) {
	t.Helper()
	out := appendHeader(nil, messageCall, methodCall, 1)
	out = appendStop(appendCall(out, "table", "t", map[string]string{"action": "generate"}))
	if _, err := nc.Write(out); err != nil {
		t.Fatal(err)
	}
}

func TestSlowCallsDoNotLoseWhatFollows(t *testing.T) {
	testhelp.CheckLeaks(t)
	gate := make(chan struct{})
	slow := func(ctx context.Context, registry, item string, request map[string]string) osquery.ExtensionResponse {
		<-gate
		return echo(ctx, registry, item, request)
	}
	_, path := startServer(t, handlerFunc(slow))
	c, err := Dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range 3 {
		timer := time.AfterFunc(3*hangupDelay, func() { gate <- struct{}{} })
		if _, _, err := c.Call(testhelp.Context(t), "table", "t", nil); err != nil {
			t.Fatal(err)
		}
		timer.Stop()
	}
}

func TestServerCloseAnswersTheRunningCall(t *testing.T) {
	testhelp.CheckLeaks(t)
	h, running, _ := blocking()
	s, path := startServer(t, h)
	idle := generatedClient(t, path)
	if _, err := idle.Ping(testhelp.Context(t)); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	client := generatedClient(t, path)
	go func() {
		_, err := client.Call(testhelp.Context(t), "table", "t", nil)
		result <- err
	}()
	testhelp.Wait(t, "the call", running)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.Close(testhelp.Context(t)); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	if err := <-result; err != nil {
		t.Errorf("the running call got %v", err)
	}
	wg.Wait()
	if _, err := idle.Ping(testhelp.Context(t)); err == nil {
		t.Error("an idle connection outlives the server")
	}
	if _, err := Dial(testhelp.Context(t), path); err == nil {
		t.Error("the server still accepts")
	}
}

func TestServerCloseIsBounded(t *testing.T) {
	testhelp.CheckLeaks(t)
	running, gate := make(chan struct{}), make(chan struct{})
	s, path := startServer(t, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
		close(running)
		<-gate // whether or not its context ended
		return okResponse()
	}))
	nc, err := dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	sendCall(t, nc)
	testhelp.Wait(t, "the call", running)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := s.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 calls") {
		t.Errorf("got %v", err)
	}
	close(gate)
}

func TestServerCloseBeforeServe(t *testing.T) {
	testhelp.CheckLeaks(t)
	s := NewServer(handlerFunc(echo))
	if err := s.Close(testhelp.Context(t)); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); err == nil {
		t.Fatal("the listener is left open")
	}
}

func TestServeReportsAListenerClosedByOthers(t *testing.T) {
	testhelp.CheckLeaks(t)
	l, err := Listen(socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	s := NewServer(handlerFunc(echo))
	if err := s.Serve(l); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("got %v", err)
	}
	_ = s.Close(testhelp.Context(t))
}

func TestListenReplacesAStaleSocketOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("named pipes leave nothing behind")
	}
	path := socketPath(t)
	first, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = first.Close()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	_ = l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Fatal("a file was replaced")
	}
}
