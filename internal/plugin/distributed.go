package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/delivery"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/stats"
)

// distributed is the distributed plugin: it passes osqueryd the broker's queries,
// and keeps what osqueryd answers until the broker accepted it.
type distributed struct {
	set         *Settings
	client      *client
	events      *guard.Announcer
	results     *delivery.Shipper
	gate        gate
	discovering guard.Slot // one discovery query at a time

	underWay underWay
}

// underWay knows the ids of the queries whose results are queued.
type underWay struct {
	mu   sync.Mutex
	ids  map[uint64][]string // by the entry's number
	upTo uint64              // entries up to here were looked at
}

// add notes the queries that an entry answers.
func (u *underWay) add(seq uint64, results []extension.Result) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ids == nil {
		u.ids = map[uint64][]string{}
	}
	ids := make([]string, 0, len(results))
	for _, r := range results {
		ids = append(ids, r.ID)
	}
	u.ids[seq] = ids
}

// gone notes that an entry is dealt with.
func (u *underWay) gone(seq uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.ids, seq)
}

// since forgets entries up to floor, and returns the number after which to look for more. A
// queue whose numbers are lower than before is another one.
func (u *underWay) since(floor, last uint64) uint64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if last < u.upTo {
		u.ids, u.upTo = nil, 0
	}
	for seq := range u.ids {
		if seq <= floor {
			delete(u.ids, seq)
		}
	}
	return max(u.upTo, floor)
}

func (u *underWay) looked(upTo uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.upTo = max(u.upTo, upTo)
}

// addTo puts the ids into set.
func (u *underWay) addTo(set map[string]bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, ids := range u.ids {
		for _, id := range ids {
			set[id] = true
		}
	}
}

// call answers osqueryd.
func (d *distributed) call(ctx context.Context, req map[string]string) osquery.ExtensionResponse {
	switch req["action"] {
	case "getQueries":
		return d.getQueries(ctx)
	case "writeResults":
		return d.writeResults(ctx, req["results"])
	default:
		return failure("unknown action: " + req["action"])
	}
}

// querySet is what osqueryd reads.
type querySet struct {
	Queries    map[string]string `json:"queries"`
	Discovery  map[string]string `json:"discovery,omitempty"`
	Accelerate int               `json:"accelerate,omitempty"`
}

func (d *distributed) getQueries(ctx context.Context) osquery.ExtensionResponse {
	ctx, cancel := context.WithTimeout(ctx, d.set.Distributed.AnswerTimeout)
	defer cancel()
	d.lookUnderWay()
	answered := map[string]bool{}
	d.underWay.addTo(answered) // the server may have answered before it stored these
	set, err := d.fetch(ctx)
	if err != nil {
		return failure("error getting queries: " + err.Error())
	}
	d.underWay.addTo(answered)
	set.Queries = without(set.Queries, answered)
	ask, answers := d.check(ctx, set)
	d.answer(ctx, answers)
	text, err := json.Marshal(ask)
	if err != nil {
		return failure("error getting queries: " + err.Error())
	}
	return success(map[string]string{"results": string(text)})
}

// lookUnderWay looks which queries the entries in the queue answer, those that were there
// at the start.
func (d *distributed) lookUnderWay() {
	floor, last := d.results.Span()
	upTo := d.results.EachWaiting(d.underWay.since(floor, last), func(seq uint64, text []byte) {
		if results, err := delivery.ParseResults(text); err == nil {
			d.underWay.add(seq, results)
		}
	})
	d.underWay.looked(upTo)
}

// without returns the queries but for those of some ids.
func without(queries map[string]string, ids map[string]bool) map[string]string {
	out := make(map[string]string, len(queries))
	for id, sql := range queries {
		if !ids[id] {
			out[id] = sql
		}
	}
	return out
}

// fetch gets the queries from the broker. A broker that requested a wait is not called.
func (d *distributed) fetch(ctx context.Context) (extension.QuerySet, error) {
	if d.gate.closed() != nil {
		return extension.QuerySet{}, nil
	}
	set, err := invoke(ctx, d.client, callQueries, d.set.Transport.Queries)
	d.gate.note(err)
	if errors.Is(err, extension.ErrUnsupported) {
		return extension.QuerySet{}, nil
	}
	if err != nil {
		d.events.Announce(func(h stats.Head) stats.Event {
			return stats.TransportFailed{Head: h, Call: callQueries, Err: err, Retry: delivery.RetryAfter(err)}
		})
		return extension.QuerySet{}, err
	}
	return set, nil
}

// check takes out what would make osqueryd drop the whole set in silence: an
// empty id or query, and a discovery query that fails. Those are answered at once.
func (d *distributed) check(ctx context.Context, set extension.QuerySet) (out querySet, answers []extension.Result) {
	out = querySet{Queries: map[string]string{}, Discovery: map[string]string{}}
	out.Accelerate = min(max(set.AccelerateSeconds, 0), math.MaxInt32)
	for _, id := range slices.Sorted(maps.Keys(set.Queries)) {
		sql, discovery := set.Queries[id], set.Discovery[id]
		_, discovered := set.Discovery[id]
		switch {
		case id == "":
			d.discoveryFailed(id, errors.New("the query has no id, and cannot be answered"))
		case sql == "":
			answers = append(answers, extension.Result{ID: id, Status: 1, Message: "the query is empty"})
		case !discovered:
			out.Queries[id] = sql
		case discovery == "":
			answers = append(answers, d.notDiscovered(id, errors.New("the discovery query is empty")))
		case d.set.Discover == nil:
			out.Queries[id], out.Discovery[id] = sql, discovery
		default:
			rows, err := d.discover(ctx, discovery)
			if err != nil {
				answers = append(answers, d.notDiscovered(id, err))
			} else if rows > 0 {
				out.Queries[id] = sql
			}
		}
	}
	return out, answers
}

// discover runs a discovery query.
func (d *distributed) discover(ctx context.Context, sql string) (rows int, err error) {
	rows, err = guard.Bounded(ctx, d.client.tasks, d.discovering, "discovery", func(ctx context.Context) (int, error) {
		return d.set.Discover(ctx, sql)
	})
	d.events.AnnouncePanic(err)
	return rows, err
}

func (d *distributed) notDiscovered(id string, err error) extension.Result {
	d.discoveryFailed(id, err)
	return extension.Result{ID: id, Status: 1, Message: fmt.Sprintf("discovery query failed: %v", err)}
}

func (d *distributed) discoveryFailed(id string, err error) {
	d.events.Announce(func(h stats.Head) stats.Event { return stats.DiscoveryFailed{Head: h, Query: id, Err: err} })
}

// answer queues answers that osqueryd has no part in.
func (d *distributed) answer(ctx context.Context, answers []extension.Result) {
	if len(answers) == 0 {
		return
	}
	text, err := delivery.EncodeResults(answers)
	if err == nil {
		err = d.keep(ctx, text, answers)
	}
	if err != nil {
		d.events.Warn("answers to distributed queries were lost", "answers", len(answers), "error", err)
	}
}

// writeResults accepts what osqueryd answers. It is on disk before osqueryd gets the
// status. That is an error, and osqueryd keeps the answer, only if it can be neither kept nor sent.
func (d *distributed) writeResults(ctx context.Context, text string) osquery.ExtensionResponse {
	results, err := delivery.ParseResults([]byte(text))
	if err != nil {
		// osqueryd would send the same again for ever.
		d.events.Warn("osqueryd wrote results that are none", "error", err)
		d.results.Lost("malformed", 1, uint64(len(text)))
		return success(nil)
	}
	d.announceDenied(results)
	if err := d.keep(ctx, []byte(text), results); err != nil {
		return failure("error writing results: " + err.Error())
	}
	return success(nil)
}

// keep queues one write, or, when that fails, hands it to the broker at once.
func (d *distributed) keep(ctx context.Context, text []byte, results []extension.Result) error {
	if seq, kept := d.results.AppendResults(text); kept {
		d.underWay.add(seq, results)
		d.results.Set.Wake()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.set.Distributed.AnswerTimeout)
	defer cancel()
	return d.deliverNow(ctx, results)
}

// deliverNow hands results to the broker that could not be queued. Those that nobody will ever
// take count as dealt with: osqueryd would send them again for ever, together with everything
// that it answers later, which would be refused with them.
func (d *distributed) deliverNow(ctx context.Context, results []extension.Result) error {
	err := d.deliver(ctx, results)
	final := errors.Is(err, extension.ErrPermanent) || errors.Is(err, extension.ErrTooLarge)
	switch {
	case errors.Is(err, extension.ErrUnsupported):
		return nil
	case final && len(results) > 1:
		half := len(results) / 2
		return errors.Join(d.deliverNow(ctx, results[:half]), d.deliverNow(ctx, results[half:]))
	case final:
		d.events.Warn("the server refused distributed results for good", "error", err)
		d.results.Lost("refused for good by the server", 1, uint64(len(results[0].Rows)))
		return nil
	default:
		return err
	}
}

func (d *distributed) announceDenied(results []extension.Result) {
	for _, r := range results {
		if r.Status != 0 && r.Message == delivery.DenylistedMessage {
			d.events.Announce(func(h stats.Head) stats.Event {
				return stats.QueryDenylisted{Head: h, Query: r.ID, Distributed: true}
			})
		}
	}
}

// deliver hands results to the broker.
func (d *distributed) deliver(ctx context.Context, results []extension.Result) error {
	if len(results) == 0 {
		return nil
	}
	_, err := invoke(ctx, d.client, callResults, func(ctx context.Context, n extension.Node) (struct{}, error) {
		return struct{}{}, d.set.Transport.WriteResults(ctx, n, results)
	})
	if err == nil {
		d.set.Counters.Distributed(len(results))
	}
	return err
}
