package thriftconn

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pipes stands for an osqueryd whose every connection is a pipe.
type pipes struct {
	dials int
	down  atomic.Bool   // refuses connections with errFake
	delay time.Duration // how long a query takes on connection n: delay/n
	over  chan struct{} // closed when the test ends
}

func (p *pipes) dial(context.Context, string) (*Conn, error) {
	if p.down.Load() {
		return nil, errFake
	}
	p.dials++
	ours, theirs := net.Pipe()
	n := p.dials
	go func() {
		defer func() { _ = theirs.Close() }()
		for seq := int32(1); ; seq++ {
			if _, err := theirs.Read(make([]byte, 1000)); err != nil {
				return
			}
			select {
			case <-time.After(p.delay / time.Duration(n)):
			case <-p.over:
				return
			}
			out := appendHeader(nil, messageReply, methodQuery, seq)
			out = appendField(appendField(out, typeStruct, 0), typeStruct, 1)
			out = appendStop(appendStop(appendStatus(out, 0, "OK", 0)))
			if _, err := theirs.Write(out); err != nil {
				return
			}
		}
	}()
	return NewConn(ours), nil
}

// policy runs a test in a bubble with its own clock.
func policy(t *testing.T, p *pipes, opts []QueueOption, test func(t *testing.T, q *QueryQueue)) {
	synctest.Test(t, func(t *testing.T) {
		p.over = make(chan struct{})
		q := NewQueryQueue(p.dial, opts...)
		defer close(p.over)
		defer func() { _ = q.Close() }()
		q.Reset("pipe")
		test(t, q)
	})
}

// queryFor runs a query whose context ends after d.
func queryFor(q *QueryQueue, d time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	start := time.Now()
	_, err := q.Query(ctx, "")
	return time.Since(start), err
}

func TestQueueWaitsForALateAnswer(t *testing.T) {
	p := &pipes{delay: 4 * time.Second}
	policy(t, p, nil, func(t *testing.T, q *QueryQueue) {
		if took, err := queryFor(q, time.Second); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Fatalf("after %v: %v", took, err)
		}
		took, err := queryFor(q, time.Minute) // 3 s until the late answer, 4 s of its own
		if err != nil || took != 7*time.Second || p.dials != 1 {
			t.Fatalf("after %v on %d connections: %v", took, p.dials, err)
		}
	})
}

func TestQueueWaitsABoundedWhile(t *testing.T) {
	p := &pipes{delay: time.Minute}
	policy(t, p, nil, func(t *testing.T, q *QueryQueue) {
		_, _ = queryFor(q, time.Second)
		took, err := queryFor(q, time.Hour) // 5 s of grace, 30 s on the second connection
		if err != nil || took != defaultDrainGrace+30*time.Second || p.dials != 2 {
			t.Fatalf("after %v on %d connections: %v", took, p.dials, err)
		}
		if took, err := queryFor(q, time.Hour); err != nil || took != 30*time.Second {
			t.Fatalf("the grace was waited for again: %v, %v", took, err)
		}
	})
}

func TestQueueGivesUpInTheGrace(t *testing.T) {
	p := &pipes{delay: time.Minute}
	policy(t, p, []QueueOption{WithDrainGrace(time.Hour)}, func(t *testing.T, q *QueryQueue) {
		if _, err := queryFor(q, time.Second); !errors.Is(err, ErrInFlight) {
			t.Fatalf("the first query got %v", err)
		}
		took, err := queryFor(q, time.Second)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrWaiting) || took != time.Second {
			t.Fatalf("after %v: %v", took, err)
		}
		if s := q.Stats(); s != (QueueStats{Draining: 1}) {
			t.Fatalf("stats %+v", s)
		}
	})
}

func TestQueueBoundsItsDrains(t *testing.T) {
	p := &pipes{delay: 24 * time.Hour}
	opts := []QueueOption{WithDrainGrace(0), func(o *queueOptions) { o.drain, o.drains = time.Minute, 2 }}
	policy(t, p, opts, func(t *testing.T, q *QueryQueue) {
		for range 4 {
			if _, err := queryFor(q, time.Second); !errors.Is(err, ErrInFlight) {
				t.Fatalf("got %v", err)
			}
		}
		if s := q.Stats(); s.Draining != 2 {
			t.Fatalf("stats %+v", s)
		}
		<-time.After(time.Minute)
		synctest.Wait()
		if s := q.Stats(); s.Draining != 0 {
			t.Fatalf("stats %+v after the limit", s)
		}
	})
}

func TestQueuePatience(t *testing.T) {
	p := &pipes{}
	p.down.Store(true)
	policy(t, p, nil, func(t *testing.T, q *QueryQueue) {
		took, err := queryFor(q, time.Hour)
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, errFake) {
			t.Fatalf("got %v", err)
		}
		if took < defaultPatience || took > defaultPatience+time.Second {
			t.Fatalf("it took %v", took)
		}
		if took, err = queryFor(q, time.Hour); !errors.Is(err, ErrUnavailable) || took > time.Second {
			t.Fatalf("the next query waited %v all over again: %v", took, err)
		}
		p.down.Store(false)
		if _, err := queryFor(q, time.Hour); err != nil {
			t.Fatalf("back again: %v", err)
		}
		q.Suspend()
		if took, err := queryFor(q, time.Hour); !errors.Is(err, ErrUnavailable) || took != defaultPatience {
			t.Fatalf("suspended: %v, %v", took, err)
		}
	})
}

func TestQueueKeepsTryingToConnect(t *testing.T) {
	p := &pipes{}
	p.down.Store(true)
	policy(t, p, nil, func(t *testing.T, q *QueryQueue) {
		time.AfterFunc(10*time.Second, func() { p.down.Store(false) })
		if took, err := queryFor(q, time.Hour); err != nil || took > 10*time.Second+maxDialWait {
			t.Fatalf("after %v: %v", took, err)
		}
	})
}

func TestQueueResetWakesWhoWaitsForAnAnswer(t *testing.T) {
	p := &pipes{delay: time.Minute}
	policy(t, p, []QueueOption{WithDrainGrace(time.Hour)}, func(t *testing.T, q *QueryQueue) {
		_, _ = queryFor(q, time.Second)
		time.AfterFunc(time.Second, func() { q.Reset("next") })
		if took, err := queryFor(q, time.Hour); err != nil || took != 31*time.Second {
			t.Fatalf("after %v: %v", took, err)
		}
	})
}

func TestQueueIsFairByArrival(t *testing.T) {
	p := &pipes{delay: time.Second}
	policy(t, p, nil, func(t *testing.T, q *QueryQueue) {
		var mu sync.Mutex
		var order []int
		var callers sync.WaitGroup
		for i := range 9 {
			callers.Go(func() {
				if _, err := q.Query(t.Context(), ""); err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
			})
			synctest.Wait() // it has the turn, or its place in the line
		}
		callers.Wait()
		if !slices.IsSorted(order) || len(order) != 9 {
			t.Errorf("order %v", order)
		}
	})
}
