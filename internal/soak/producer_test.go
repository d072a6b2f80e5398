package soak_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// line is what osqueryd logs.
type line struct {
	Instance string `json:"instance"`
	N        uint64 `json:"n"`
	Pad      string `json:"pad"`
}

// producer has one instance's osqueryd log lines, one after the other, and
// remembers those for which its logger call was answered.
type producer struct {
	fake    *osquerydtest.Fake
	id      string
	lines   int
	written *atomic.Int64

	acked  []uint64
	unsure int // lines during which something was killed
}

func newProducer(fake *osquerydtest.Fake, id string, lines int, written *atomic.Int64) *producer {
	return &producer{fake: fake, id: id, lines: lines, written: written}
}

// startAll gives a function that waits for all, and gives what went wrong.
func startAll(ctx context.Context, producers []*producer) (wait func() []error) {
	var wg sync.WaitGroup
	errs := make(chan error, len(producers))
	for _, p := range producers {
		wg.Go(func() {
			if err := p.run(ctx); err != nil {
				errs <- fmt.Errorf("%s: %w", p.id, err)
			}
		})
	}
	return func() (all []error) {
		wg.Wait()
		close(errs)
		for err := range errs {
			all = append(all, err)
		}
		return all
	}
}

// run ends when so many lines are acknowledged.
func (p *producer) run(ctx context.Context) error {
	n, sep := uint64(0), string(filepath.Separator)
	where := sep + p.id + sep // a part of its database's path
	for len(p.acked) < p.lines {
		worker, err := p.fake.WaitWorker(ctx, where)
		if err != nil {
			return err
		}
		for len(p.acked) < p.lines {
			n++
			if err := worker.Emit(ctx, p.text(n)); err != nil {
				p.unsure++
				if ctx.Err() != nil {
					return ctx.Err()
				}
				break // it was killed: the line may be stored or not
			}
			p.acked = append(p.acked, n)
			p.written.Add(1)
		}
	}
	return nil
}

func (p *producer) text(n uint64) string {
	text, err := json.Marshal(line{Instance: p.id, N: n, Pad: strings.Repeat("x", rand.IntN(400))})
	if err != nil {
		return err.Error() // no such line is expected, so it is found
	}
	return string(text)
}

// isThere says whether the newest acknowledged line was delivered. Where it is, it
// is in the newest batch: nothing was written after it but what was never
// acknowledged.
func (p *producer) isThere(srv *remoteapitest.Server) bool {
	if len(p.acked) == 0 {
		return true
	}
	last := p.acked[len(p.acked)-1]
	batches := srv.Batches(p.id)
	for i := len(batches) - 1; i >= 0; i-- {
		lines, err := numbers(batches[i], p.id)
		if err == nil && len(lines) > 0 {
			return slices.Max(lines) >= last
		}
	}
	return false
}

func unsure(producers []*producer) (n int) {
	for _, p := range producers {
		n += p.unsure
	}
	return n
}
