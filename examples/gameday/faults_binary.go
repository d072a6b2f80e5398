package main

import (
	"context"
	"os"
	"time"

	"github.com/osqvisor/osqvisor/stats"
)

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
			name: "binary deleted", notice: kinds(stats.InstanceParked{}),
			causes: anyOf(stats.CauseBinaryMissing), also: anyOf(stats.CauseSignal), impossible: keepsPrograms,
			inject: func(_ context.Context, s *strike) error {
				away := s.w.binary + ".away"
				if err := os.Rename(s.w.binary, away); err != nil {
					return err
				}
				s.finally(func() { _ = os.Rename(away, s.w.binary) }) // mend did so already if all went well
				return killGroup(s.before.watcher)
			},
			mend: func(ctx context.Context, s *strike) error {
				if err := os.Rename(s.w.binary+".away", s.w.binary); err != nil {
					return err
				}
				// The event comes a moment before the instance can be resumed.
				for {
					err := s.w.runner.Resume(s.id)
					if err == nil || ctx.Err() != nil {
						return err
					}
					pause(ctx, 5*time.Millisecond)
				}
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
