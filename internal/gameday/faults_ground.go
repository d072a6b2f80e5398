package gameday

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
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

// endsBy reports that a run ended by a cause.
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

// newerVersion is what the fake claims to be after it was replaced.
const newerVersion = "5.24.1"

// binaryFaults change the program that all instances run.
func binaryFaults() []fault {
	return []fault{
		{
			name: "binary replaced while running", notice: kinds(stats.RunReady{}),
			causes: anyOf(stats.CauseSignal), impossible: keepsPrograms, inject: replaceBinary,
			sees: func(s *strike, e stats.Event) bool {
				ready, ok := e.(stats.RunReady)
				return ok && (s.w.fake == nil || ready.Version == newerVersion)
			},
		},
		{
			name: "binary deleted", notice: kinds(stats.InstanceParked{}), settle: kinds(stats.InstanceResumed{}),
			causes: anyOf(stats.CauseBinaryMissing), also: anyOf(stats.CauseSignal), impossible: keepsPrograms,
			inject: func(_ context.Context, s *strike) error {
				away := s.w.binary + ".away"
				if err := os.Rename(s.w.binary, away); err != nil {
					return err
				}
				s.finally(func() { _ = os.Rename(away, s.w.binary) }) // mend did so already if all went well
				return killGroup(s.before.watcher)
			},
			mend: func(_ context.Context, s *strike) error { // and nobody has to resume it
				return os.Rename(s.w.binary+".away", s.w.binary)
			},
		},
	}
}

// replaceBinary puts another file in the place of the binary, as an update does, and ends
// the victim: its next run is the new one, and the others go on with the old.
func replaceBinary(ctx context.Context, s *strike) error {
	if s.w.fake != nil {
		newer := s.w.script()
		newer.Version = newerVersion
		if err := s.w.fake.SetScript(newer); err != nil {
			return err
		}
		s.finally(s.behave)
	}
	if err := copyBinary(ctx, s.w.binary, s.w.binary); err != nil {
		return err
	}
	s.now()
	return killGroup(s.before.watcher)
}

// machineFaults come from below, or from wear.
func machineFaults() []fault {
	return []fault{
		{
			name: "clock jumps", notice: kinds(stats.Suspended{}),
			inject: func(_ context.Context, s *strike) error {
				s.w.clocks.jump(s.id, time.Hour)
				return nil
			},
		},
		{name: "open/close cycles", inject: cycles},
	}
}

// lanes is how many instances are opened and closed at the same time.
const lanes = 4

// cycles opens and closes instances over and over: most at some instant of their start,
// each eighth when it is ready.
func cycles(ctx context.Context, s *strike) error {
	before := countGoroutines()
	var wait sync.WaitGroup
	errs := make([]error, lanes)
	for lane := range lanes {
		wait.Go(func() {
			for i := lane; i < s.w.set.rare && errs[lane] == nil && ctx.Err() == nil; i += lanes {
				errs[lane] = s.w.cycle(ctx, fmt.Sprintf("%s-%d", "lane", lane), i)
			}
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	// A line or a query may be on its way, in either count.
	if more := before.leaked(); more > instances {
		return fmt.Errorf("%d goroutines are left of %d cycles", more, s.w.set.rare)
	}
	s.saw("%d cycles left nothing", s.w.set.rare)
	return nil
}

// cycle is the life of one instance.
func (w *world) cycle(ctx context.Context, id string, n int) error {
	if err := w.runner.Add(id); err != nil {
		return err
	}
	if n%8 == 0 {
		if err := w.runner.WaitReady(ctx, id); err != nil {
			return err
		}
	} else {
		pause(ctx, time.Duration(n%40)*5*time.Millisecond)
	}
	return w.runner.Remove(ctx, id)
}

// hostFaults are in the program that uses the SDK.
func hostFaults() []fault {
	panicked := kinds(stats.PanicCaught{})
	return []fault{
		{
			name: "stderr flooded", fakeOnly: noScript,
			inject: func(ctx context.Context, s *strike) error {
				err := s.tell(ctx, osquerydtest.Action{Do: osquerydtest.FloodStderr, Bytes: s.w.set.flood})
				s.saw("%d MB were read", s.w.set.flood>>20)
				return err
			},
		},
		{
			name: "host plugin panics", notice: panicked,
			inject: func(ctx context.Context, s *strike) error {
				s.w.tables.shake(s.id, true)
				s.finally(func() { s.w.tables.shake(s.id, false) })
				ctx, cancel := context.WithTimeout(ctx, answerPatience)
				defer cancel()
				if _, err := s.w.runner.Query(ctx, s.id, "select * from "+tableName); err == nil {
					return fmt.Errorf("the query succeeded though its table panicked")
				}
				return nil
			},
		},
		{
			name: "host transport hangs for ever", notice: kinds(stats.TransportFailed{}), causes: anyOf(stats.CauseSignal),
			inject: func(_ context.Context, s *strike) error {
				s.finally(s.w.sink.hang(s.id)) // until it has recovered without
				return killGroup(s.before.watcher)
			},
		},
		{
			name: "observer panics", notice: panicked, settle: kinds(stats.WorkerReplaced{}),
			inject: func(_ context.Context, s *strike) error {
				s.w.journal.shake(s.id, true)
				s.finally(func() { s.w.journal.shake(s.id, false) })
				return kill(s.before.worker)
			},
		},
		{name: "kill -9 of the host itself", inject: killHost},
	}
}

// hostGone is how long osqueryd may live on when its host was killed.
const hostGone = 2 * time.Second

// killHost passes the victim to another host, kills that, and takes the victim back.
func killHost(ctx context.Context, s *strike) error {
	s.asked = true
	if err := s.w.runner.Remove(ctx, s.id); err != nil {
		return err
	}
	gone, err := s.otherHost(ctx)
	if err != nil {
		return fmt.Errorf("another host: %w", errors.Join(err, s.w.add(s.id)))
	}
	if err := s.w.add(s.id); err != nil {
		return err
	}
	if gone > hostGone && systemKillsOrphans {
		return fmt.Errorf("osqueryd outlived its host by %v", gone)
	}
	s.saw("its osqueryd went in %v", gone.Round(time.Millisecond))
	return nil
}

// otherHost runs the victim in another process, kills that, and measures how long its
// osqueryd lives on.
func (s *strike) otherHost(ctx context.Context) (gone time.Duration, err error) {
	args := []string{s.w.binary, s.w.root, s.id}
	h, err := startHelper("host", args...)
	if err != nil {
		return 0, err
	}
	defer func() { _ = h.leave() }()
	if err := h.wait(ctx); err != nil {
		return 0, err
	}
	if s.w.lines != nil { // acknowledged there, to be delivered here
		if err := s.w.lines.log(ctx, s.id, 50); err != nil {
			return 0, err
		}
	}
	s.now()
	if err := kill(h.pid()); err != nil {
		return 0, err
	}
	for len(s.w.foreign()) > 0 && time.Since(s.hit) < 2*hostGone {
		pause(ctx, 5*time.Millisecond)
	}
	return time.Since(s.hit), nil
}

// foreign are the processes of the game's osqueryd that are not this host's.
func (w *world) foreign() []inhabitant {
	var out []inhabitant
	for _, p := range w.inhabitants() {
		if !w.belongs(p) {
			out = append(out, p)
		}
	}
	return out
}
