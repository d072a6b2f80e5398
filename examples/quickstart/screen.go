package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

const (
	redrawEvery = 200 * time.Millisecond
	eraseBelow  = "\x1b[J"
	plainWidth  = 120 // of the table where there is no terminal
)

// screen shows lines as they come and, on a terminal, a table below them that is
// drawn anew in its place. Elsewhere it writes plain lines only.
type screen struct {
	out   *os.File
	live  bool
	begin time.Time
	wake  chan struct{}

	mu    sync.Mutex
	lines []string
	table func() string

	drawn int // lines of the table on the terminal; of show's goroutine alone
}

func newScreen(out *os.File) *screen {
	_, live := terminalWidth(out)
	return &screen{out: out, live: live, begin: time.Now(), wake: make(chan struct{}, 1)}
}

// say adds a line. It never waits for the terminal, so observers may call it.
func (s *screen) say(format string, args ...any) {
	at := time.Since(s.begin).Seconds()
	text := strings.TrimRight(fmt.Sprintf(format, args...), "\n")
	s.mu.Lock()
	s.lines = append(s.lines, fmt.Sprintf("%5.1fs  %s", at, text))
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // show is being woken already
	}
}

// setTable says what the table is to show, from now on.
func (s *screen) setTable(snapshots func() []stats.Snapshot, newest func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table = func() string { return formatTable(snapshots()) + newest() }
}

// sayTable adds the table as it is now to the lines, where none is drawn in place.
func (s *screen) sayTable() {
	if s.live {
		return
	}
	s.say("how they are:\n%s", indent(clip(s.currentTable(), plainWidth)))
}

// show draws until ctx ends, and then once more.
func (s *screen) show(ctx context.Context) {
	tick := time.NewTicker(redrawEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.draw()
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-tick.C:
		}
	}
	s.draw()
}

// draw writes what is new in one piece, so that nothing flickers.
func (s *screen) draw() {
	s.mu.Lock()
	lines := s.lines
	s.lines = nil
	s.mu.Unlock()
	var b strings.Builder
	if s.live && s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r%s", s.drawn, eraseBelow)
		s.drawn = 0
	}
	for _, line := range lines {
		b.WriteString(line + "\n")
	}
	if s.live {
		width, _ := terminalWidth(s.out)
		if width <= 0 {
			width = 80 // as narrow as terminals commonly are
		}
		table := clip(s.currentTable(), width)
		s.drawn = strings.Count(table, "\n")
		b.WriteString(table)
	}
	if b.Len() > 0 {
		_, _ = s.out.WriteString(b.String()) // a terminal that went away is no failure of the tour
	}
}

func (s *screen) currentTable() string {
	s.mu.Lock()
	table := s.table
	s.mu.Unlock()
	if table == nil {
		return ""
	}
	return table()
}

// start begins to draw. The function that it gives ends that, and waits for it.
func (s *screen) start() (join func()) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.show(ctx)
	}()
	return func() {
		stop()
		<-done
	}
}
