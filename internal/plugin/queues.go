package plugin

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/osqvisor/osqvisor/internal/delivery"
)

// OpenQueues opens the queues that are not open. The error says which one cannot be;
// then none is open. It must not be called while Run, Flush or CloseQueues is under way.
func (e *Extension) OpenQueues() error {
	err := e.eachQueue((*delivery.Shipper).OpenStore)
	if err != nil {
		return errors.Join(err, e.CloseQueues())
	}
	return nil
}

// AdoptQueues brings along the queues of the extension's former directory dir: call it before OpenQueues, when nobody else
// uses dir. What cannot be moved is announced by a stats.QueueLeft, stays where it is, and is in the error; the same call may
// be made again.
func (e *Extension) AdoptQueues(ctx context.Context, dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, "queue")); errors.Is(err, fs.ErrNotExist) || dir == e.set.Dir {
		return nil
	}
	return e.eachQueue(func(s *delivery.Shipper) error { return s.Adopt(ctx, dir) })
}

// CloseQueues closes the queues until the next OpenQueues. Lines that come meanwhile
// are lost, and counted so; Pending goes on telling what was left. It must not be
// called while Run or Flush is under way. Later calls do nothing.
func (e *Extension) CloseQueues() error {
	return e.eachQueue((*delivery.Shipper).CloseStore)
}

// eachQueue does something with all queues at the same time: each waits for the
// disk, and a run can neither start nor end before the last.
func (e *Extension) eachQueue(do func(*delivery.Shipper) error) error {
	errs := make([]error, len(e.shippers))
	var wait sync.WaitGroup
	for i, s := range e.shippers {
		wait.Go(func() { errs[i] = do(s) })
	}
	wait.Wait()
	return errors.Join(errs...)
}
