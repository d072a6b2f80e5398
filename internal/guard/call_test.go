package guard

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestLaneKeepsTheOrderOfWhatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Lane
		var did []string
		note := func(what string) func() error {
			return func() error {
				did = append(did, what)
				return nil
			}
		}
		thaw := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		err := l.Try(ctx, time.Second, func() error {
			<-thaw
			return note("open")()
		}, func() { _ = note("undo")() })
		if !errors.Is(err, ErrHangs) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("what hangs: %v, want ErrHangs and the deadline", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("it was waited for %v, want its context and a second", took)
		}
		done := l.Go(func() { _ = note("close")() })
		if Wait(done, time.Second) {
			t.Error("the next one overtook it")
		}
		if err := l.Try(ctx, time.Hour, note("never"), nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrHangs) {
			t.Errorf("what never began: %v, want the deadline alone", err)
		}
		close(thaw)
		<-done
		if err := l.Try(t.Context(), 0, note("again"), nil); err != nil {
			t.Error(err)
		}
		if got := fmt.Sprint(did); got != "[open undo close again]" {
			t.Errorf("done: %v", got)
		}
	})
}

func TestCallReturnsWhatItReturns(t *testing.T) {
	boom := errors.New("boom")
	undo := func() { t.Error("what was waited for was undone") }
	if err := Call(t.Context(), 0, func() error { return boom }, undo); !errors.Is(err, boom) {
		t.Errorf("got %v, want %v", err, boom)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := Call(ctx, time.Minute, func() error {
		cancel()
		return nil
	}, undo)
	if err != nil {
		t.Errorf("what returned within its grace: %v", err)
	}
	if !Within(time.Minute, func() {}) {
		t.Error("what returned at once was given up")
	}
}

func TestCallPanicsWhereItIsCalled(t *testing.T) {
	defer func() {
		if v := recover(); v != "boom" {
			t.Errorf("got %v, want the panic", v)
		}
	}()
	_ = Call(t.Context(), 0, func() error { panic("boom") }, nil)
}
