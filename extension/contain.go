package extension

import (
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/osqvisor/osqvisor/stats"
)

// panicError is a panic of the host's code, as an error.
type panicError struct {
	where string
	value string
	stack string
}

func (p *panicError) Error() string { return p.where + " panicked: " + p.value }

// contain runs f, which calls code of the host, and gives a panic in it as an
// error. where names the code.
func contain(where string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &panicError{where: where, value: fmt.Sprint(r), stack: string(debug.Stack())}
		}
	}()
	return f()
}

// announcer hands events to the host. It is safe for concurrent use.
type announcer struct {
	emit func(stats.Event)
	head func() stats.Head
	warn func(msg string, args ...any)
}

// say hands over one event. A panic in the host's hook is only logged: there is
// nobody left to tell.
func (a *announcer) say(event func(stats.Head) stats.Event) {
	err := contain("event hook", func() error {
		a.emit(event(a.head()))
		return nil
	})
	if err != nil {
		a.warn("an event was lost", "error", err)
	}
}

// caught announces err if it is a panic.
func (a *announcer) caught(err error) {
	var p *panicError
	if !errors.As(err, &p) {
		return
	}
	a.say(func(h stats.Head) stats.Event {
		return stats.PanicCaught{Head: h, Where: p.where, Value: p.value, Stack: p.stack}
	})
}

// guard runs f and announces a panic in it.
func (a *announcer) guard(where string, f func() error) error {
	err := contain(where, f)
	a.caught(err)
	return err
}
