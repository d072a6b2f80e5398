package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

// holdPatience is how long a lock may take that nobody should hold any more.
const holdPatience = 2 * time.Second

// fileFaults spoil what an instance keeps on disk.
func fileFaults() []fault {
	ended := kinds(stats.RunEnded{})
	return []fault{
		{
			name: "database locked by another process", notice: ended, impossible: needsSignals,
			causes: anyOf(stats.CauseDatabaseLocked), also: anyOf(stats.CauseSignal),
			sees: endsBy(stats.CauseDatabaseLocked), inject: seize("osquery.db/LOCK"), mend: letGo,
		},
		{
			name: "database corrupt", notice: kinds(stats.DatabaseReplaced{}), inject: corruptDatabase,
			sees: func(_ *strike, e stats.Event) bool {
				replaced, ok := e.(stats.DatabaseReplaced)
				return ok && replaced.Backup != ""
			},
		},
		{
			name: "pidfile held by a stranger's pid", notice: ended, impossible: needsSignals,
			causes: anyOf(stats.CausePidfileBusy), also: anyOf(stats.CauseSignal),
			sees: endsBy(stats.CausePidfileBusy), inject: seize("osqueryd.pid", "pid"), mend: letGo,
		},
		{
			name: "disk full in the instance directory", notice: kinds(stats.LogsDropped{}), onFull: true,
			// A start may find room that the end of the last run left, or none.
			causes:     anyOf(stats.CauseSignal, stats.CauseDirectory),
			impossible: func(w *world) string { return w.noSmall },
			inject:     fillDisk,
			mend:       func(_ context.Context, s *strike) error { s.cleanUp(); return nil },
		},
	}
}

// endsBy says that a run ended by a cause.
func endsBy(c stats.Cause) func(*strike, stats.Event) bool {
	return func(_ *strike, e stats.Event) bool {
		end, ok := e.(stats.RunEnded)
		return ok && end.Cause == c
	}
}

// seize has another process hold a file of the victim's from the moment that its
// osqueryd, which is killed, lets go of it.
func seize(name string, args ...string) func(context.Context, *strike) error {
	return func(ctx context.Context, s *strike) error {
		path := filepath.Join(s.w.directory(s.id), filepath.FromSlash(name))
		h, err := startHelper("hold", append([]string{path}, args...)...)
		if err != nil {
			return err
		}
		s.finally(func() { _ = h.leave() })
		s.holder = h
		// Whoever asks for the lock first gets it, and a new osqueryd is quick: so it is
		// asked for before the kill, and a start that was quicker is killed as well.
		for {
			if err := s.killCurrent(); err != nil {
				return err
			}
			s.now()
			wait, cancel := context.WithTimeout(ctx, holdPatience)
			err := h.wait(wait)
			cancel()
			if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
		}
	}
}

// letGo ends the stranger, which must have been spared.
func letGo(_ context.Context, s *strike) error {
	if !s.holder.alive() {
		return errors.New("the stranger that held the file was killed")
	}
	return s.holder.leave()
}

// corruptDatabase stops the victim, breaks its database and starts it. osqueryd puts such
// a database aside and makes a new one.
func corruptDatabase(ctx context.Context, s *strike) error {
	if err := s.w.runner.Remove(ctx, s.id); err != nil {
		return err
	}
	s.asked = true
	path := filepath.Join(s.w.directory(s.id), "osquery.db", "CURRENT")
	if err := os.WriteFile(path, []byte("gameday was here"), 0o600); err != nil {
		return errors.Join(err, s.w.add(s.id))
	}
	s.now()
	return s.w.add(s.id)
}

// fillDisk leaves not a byte of room, logs lines, which must not bring osqueryd down, and
// ends the run: the next one has hardly any room to start in.
func fillDisk(ctx context.Context, s *strike) error {
	path := filepath.Join(s.w.directory(s.id), "ballast")
	s.finally(func() { _ = os.Remove(path) })
	if err := fill(path); err != nil {
		return err
	}
	if s.w.lines == nil { // a real osqueryd logs too little to outgrow what is there
		s.f.notice = kinds(stats.RunEnded{})
	} else {
		if err := s.w.lines.log(ctx, s.id, 500); err != nil {
			return fmt.Errorf("a line was refused because the disk is full: %w", err)
		}
	}
	l, err := s.w.ask(ctx, s.id)
	switch {
	case err != nil:
		return fmt.Errorf("a full disk keeps queries from being answered: %w", err)
	case l != s.before:
		return fmt.Errorf("a full disk ended something: %+v became %+v", s.before, l)
	}
	s.now()
	return killGroup(s.before.watcher)
}

// fill writes a file until there is no room, in ever smaller pieces.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	for size := 1 << 20; size > 0; {
		if n, err := f.Write(make([]byte, size)); err != nil || n < size {
			size /= 2
		}
	}
	return f.Close()
}
