package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// liveBroker fails for some results, and remembers what it took.
type liveBroker struct {
	mu    sync.Mutex
	fail  func(results []extension.Result) error
	taken []string
	tries map[string]int
	ask   map[string]string
}

func (b *liveBroker) queries(context.Context, extension.Node) (extension.QuerySet, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return extension.QuerySet{Queries: b.ask}, nil
}

func (b *liveBroker) write(_ context.Context, _ extension.Node, results []extension.Result) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tries == nil {
		b.tries = map[string]int{}
	}
	for _, r := range results {
		b.tries[r.ID]++
	}
	if b.fail != nil {
		if err := b.fail(results); err != nil {
			return err
		}
	}
	for _, r := range results {
		b.taken = append(b.taken, r.ID)
	}
	return nil
}

func (b *liveBroker) set(fail func([]extension.Result) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail = fail
}

func (b *liveBroker) got() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.taken, " ")
}

func (b *liveBroker) option() option {
	return withTransport(extension.Funcs{QueriesFunc: b.queries, ResultsFunc: b.write})
}

// refusesResult answers err to every call with one of the ids in it.
func refusesResult(err error, ids ...string) func([]extension.Result) error {
	return func(results []extension.Result) error {
		if slices.ContainsFunc(results, func(r extension.Result) bool { return slices.Contains(ids, r.ID) }) {
			return err
		}
		return nil
	}
}

func resultsOf(ids ...string) string {
	var rows, statuses []string
	for _, id := range ids {
		rows = append(rows, fmt.Sprintf("%q:[{\"of\":%q}]", id, id))
		statuses = append(statuses, fmt.Sprintf("%q:0", id))
	}
	return `{"queries":{` + strings.Join(rows, ",") + `},"statuses":{` + strings.Join(statuses, ",") + `},"messages":{},"stats":{}}`
}

// A result that the server answers 500 holds up no later one, across restarts either, and is
// given up in the end.
func TestTrial03LiveResultHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, b := t.TempDir(), &liveBroker{}
		b.set(refusesResult(errRefused, "bad"))
		r := newRig(t, dir, b.option())
		stop := r.start()
		r.writeResults(resultsOf("bad"))
		pass(time.Minute)
		start := time.Now()
		r.writeResults(resultsOf("one"))
		pass(time.Second)
		synctest.Wait()
		equal(t, "taken", b.got(), "one")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.shut()

		r = newRig(t, dir, b.option())
		r.start()
		pass(5 * time.Second)
		r.writeResults(resultsOf("two"))
		pass(time.Second)
		synctest.Wait()
		equal(t, "taken after a restart", b.got(), "one two")
		for i := range 20 {
			r.writeResults(resultsOf(fmt.Sprint("more", i)))
			pass(time.Minute)
		}
		synctest.Wait()
		equal(t, "number taken", len(b.taken), 22)
		equal(t, "waiting", r.Pending()["distributed"], 0)
		lost := eventsOf[stats.LogsDropped](r)
		equal(t, "announcements", len(lost), 1)
		equal(t, "queue", lost[0].Queue, "distributed")
		if took := time.Since(start); took > time.Hour {
			t.Errorf("it took %v", took)
		}
	})
}

// Many bad results at once do not hold up a good one for longer than half a minute.
func TestTrial03ManyBadLiveResults(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &liveBroker{}
		b.set(func(results []extension.Result) error {
			if strings.HasPrefix(results[0].ID, "bad") {
				return errRefused
			}
			return nil
		})
		r := newRig(t, t.TempDir(), b.option())
		r.start()
		for i := range 10 {
			r.writeResults(resultsOf(fmt.Sprint("bad", i)))
		}
		pass(time.Hour)
		r.writeResults(resultsOf("good"))
		pass(31 * time.Second)
		synctest.Wait()
		equal(t, "taken", b.got(), "good")
	})
}

// Nobody waits for a result that is a day old; younger ones outlast an outage.
func TestTrial03LiveResultsHaveATimeToLive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, b := t.TempDir(), &liveBroker{}
		b.set(func([]extension.Result) error { return errDown })
		r := newRig(t, dir, b.option(), withDelivery(extension.Delivery{ResultMaxAge: time.Hour}))
		stop := r.start()
		r.writeResults(resultsOf("old"))
		pass(50 * time.Minute)
		r.writeResults(resultsOf("young"))
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		r.shut()
		pass(20 * time.Minute)
		b.set(nil)
		r = newRig(t, dir, b.option(), withDelivery(extension.Delivery{ResultMaxAge: time.Hour}))
		r.start()
		pass(time.Minute)
		synctest.Wait()
		equal(t, "taken", b.got(), "young")
		lost := eventsOf[stats.LogsDropped](r)
		equal(t, "announcements", len(lost), 1)
		equal(t, "lines", lost[0].Lines, 1)
		equal(t, "waiting", r.Pending()["distributed"], 0)
	})
}

// An outage loses no results that are not too old, and does not storm the server after it.
func TestTrial03LiveResultsOutlastAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &liveBroker{}
		b.set(func([]extension.Result) error { return errDown })
		r := newRig(t, t.TempDir(), b.option())
		r.start()
		for i := range 300 {
			r.writeResults(resultsOf(fmt.Sprint("q", i)))
		}
		pass(20 * time.Hour)
		synctest.Wait()
		calls := 0
		for _, n := range b.tries {
			calls += n
		}
		if calls > 20*3600/20 {
			t.Errorf("%d calls in an outage of 20 hours", calls)
		}
		b.set(nil)
		pass(10 * time.Minute)
		synctest.Wait()
		equal(t, "taken", len(b.taken), 300)
		equal(t, "given up", droppedBy(r), 0)
	})
}

// What was delivered behind a result that is not is not delivered again after a restart.
func TestTrial03DeliveredResultsDoNotComeTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, b := t.TempDir(), &liveBroker{}
		b.set(refusesResult(errRefused, "bad"))
		for range 3 {
			r := newRig(t, dir, b.option())
			r.start()
			if b.got() == "" {
				r.writeResults(resultsOf("bad"))
				r.writeResults(resultsOf("one"))
				r.writeResults(resultsOf("two"))
			}
			pass(time.Minute)
			synctest.Wait()
			r.shut()
		}
		equal(t, "taken", b.got(), "one two")
	})
}

// One result that is too large, or refused, costs its neighbours of the same write nothing.
func TestTrial04ResultsAreSplit(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		lost uint64
	}{{"too large", extension.ErrTooLarge, 1}, {"for good", extension.ErrPermanent, 1}, {"plainly", errRefused, 1}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b := &liveBroker{}
				b.set(refusesResult(c.err, "bad"))
				r := newRig(t, t.TempDir(), b.option())
				r.start()
				r.writeResults(resultsOf("a", "b", "bad", "c"))
				for i := range 20 {
					pass(time.Minute)
					r.writeResults(resultsOf(fmt.Sprint("later", i)))
				}
				pass(time.Hour)
				synctest.Wait()
				for _, id := range []string{"a", "b", "c"} {
					if !slices.Contains(b.taken, id) {
						t.Errorf("%s was not delivered", id)
					}
				}
				equal(t, "taken", len(b.taken), 23)
				equal(t, "given up", droppedBy(r), c.lost)
			})
		})
	}
}

// A write whose results are fine one by one, and too large together.
func TestTrial04ResultsThatAreTooLargeTogether(t *testing.T) {
	b := &liveBroker{}
	b.set(func(results []extension.Result) error {
		if len(results) > 1 {
			return extension.ErrTooLarge
		}
		return nil
	})
	r := newRig(t, t.TempDir(), b.option())
	r.writeResults(resultsOf("a", "b", "c"))
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "taken", b.got(), "a b c")
	// The same when there is no room on the disk to keep them.
	r.dist.results.Store = &fullDisk{Store: r.dist.results.Store, full: true}
	r.writeResults(resultsOf("d", "e"))
	equal(t, "taken", b.got(), "a b c d e")
}

// A query whose result is on its way is not run again, however often the server hands it out.
func TestTrial07QueriesAreNotRunTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir, b := t.TempDir(), &liveBroker{ask: map[string]string{"q": "select 1", "other": "select 2"}}
		b.set(func([]extension.Result) error { return errDown })
		r := newRig(t, dir, b.option())
		r.start()
		equal(t, "queries", r.getQueries(), `{"queries":{"other":"select 2","q":"select 1"}}`)
		r.writeResults(resultsOf("q"))
		equal(t, "queries while the result waits", r.getQueries(), `{"queries":{"other":"select 2"}}`)
		r.shut()
		r = newRig(t, dir, b.option())
		equal(t, "queries after a restart", r.getQueries(), `{"queries":{"other":"select 2"}}`)
		r.start()
		b.set(nil)
		pass(time.Minute)
		synctest.Wait()
		equal(t, "taken", b.got(), "q")
		equal(t, "queries when it was taken", r.getQueries(), `{"queries":{"other":"select 2","q":"select 1"}}`)
	})
}

// The server may have worked out its answer before it stored the result.
func TestTrial07AnswerThatCrossesTheResult(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var taken atomic.Int32
		hold := make(chan struct{})
		r := newRig(t, t.TempDir(), withTransport(extension.Funcs{
			QueriesFunc: func(context.Context, extension.Node) (extension.QuerySet, error) {
				set := extension.QuerySet{Queries: map[string]string{}}
				if taken.Load() == 0 {
					set.Queries["q"] = "select 1"
				}
				pass(5 * time.Second) // a slow answer
				return set, nil
			},
			ResultsFunc: func(context.Context, extension.Node, []extension.Result) error {
				<-hold
				taken.Add(1)
				return nil
			},
		}))
		r.start()
		r.writeResults(resultsOf("q"))
		time.AfterFunc(time.Second, func() { close(hold) })
		equal(t, "queries", r.getQueries(), `{"queries":{}}`)
		equal(t, "taken meanwhile", taken.Load(), 1)
	})
}

func TestTrial07WithheldUntilGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &liveBroker{ask: map[string]string{"q": "select 1"}}
		b.set(func([]extension.Result) error { return errors.Join(extension.ErrPermanent, errRefused) })
		r := newRig(t, t.TempDir(), b.option())
		r.writeResults(resultsOf("q"))
		equal(t, "queries", r.getQueries(), `{"queries":{}}`)
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "queries when the result was given up", r.getQueries(), `{"queries":{"q":"select 1"}}`)
	})
}
