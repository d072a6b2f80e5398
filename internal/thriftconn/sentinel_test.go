package thriftconn

import (
	"errors"
	"net"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestSentinel(t *testing.T) {
	testhelp.CheckLeaks(t)
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 2)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for range 2 {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			conns <- nc
		}
	}()
	s, err := Watch(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	peer := <-conns
	select {
	case <-s.Lost():
		t.Fatal("lost while the peer lives")
	default:
	}
	_ = peer.Close()
	testhelp.Wait(t, "the loss", s.Lost())
	_ = s.Close()

	s, err = Watch(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	_ = s.Close()
	select {
	case <-s.Lost():
		t.Fatal("closing it is taken for a loss")
	default:
	}
	_ = (<-conns).Close()
}

func TestSentinelDistrustsAPeerThatSpeaks(t *testing.T) {
	ours, theirs := net.Pipe()
	s := watch(ours)
	go func() { _, _ = theirs.Write([]byte("hello")) }()
	testhelp.Wait(t, "the loss", s.Lost())
	_ = s.Close()
	_ = theirs.Close()
}

func TestWatchFailsTyped(t *testing.T) {
	var fail *DialError
	if _, err := Watch(testhelp.Context(t), socketPath(t)); !errors.As(err, &fail) {
		t.Fatalf("got %v", err)
	}
}
