//go:build unix

package process

import (
	"errors"
	"os"
	"testing"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestIdentityOfSelfIsStable(t *testing.T) {
	first, err := Identify(os.Getpid())
	second, err2 := Identify(os.Getpid())
	if err != nil || err2 != nil || first != second || !first.Alive() {
		t.Errorf("got %+v (%v), then %+v (%v)", first, err, second, err2)
	}
	for _, pid := range []int{-1, 0, 1 << 30} {
		if _, err := Identify(pid); !errors.Is(err, ErrNotFound) {
			t.Errorf("pid %d: got %v, want ErrNotFound", pid, err)
		}
	}
}

func TestSignalNeverMeetsAStranger(t *testing.T) {
	testhelp.CheckLeaks(t)
	heard := newListener()
	p := mustStart(t, roleSpec("sleep", heard.hear))
	heard.ready(t, 1)
	stranger := p.Identity()
	stranger.StartTime += "0"
	if stranger.Alive() {
		t.Error("a wrong start time is alive")
	}
	for _, id := range []Identity{stranger, {}, {PID: -1, StartTime: stranger.StartTime}, {PID: p.PID()}} {
		if err := id.Kill(); err != nil {
			t.Errorf("%+v: %v", id, err)
		}
	}
	if !p.Identity().Alive() {
		t.Fatal("the stranger was signalled")
	}
	if err := p.Identity().Kill(); err != nil {
		t.Fatal(err)
	}
	if exit := mustExit(t, p); exit.Signal != "SIGKILL" {
		t.Errorf("got %+v, want SIGKILL", exit)
	}
	if p.Identity().Alive() {
		t.Error("alive after its end")
	}
}
