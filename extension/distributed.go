package extension

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/stats"
)

// distributed is the distributed plugin: it gives osqueryd what the broker asks,
// and keeps what osqueryd answers until the broker took it.
type distributed struct {
	set     *settings
	client  *client
	say     *announcer
	results *shipper
	gate    gate
	asking  slot // one discovery query at a time
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

// questions is what osqueryd reads.
type questions struct {
	Queries    map[string]string `json:"queries"`
	Discovery  map[string]string `json:"discovery,omitempty"`
	Accelerate int               `json:"accelerate,omitempty"`
}

func (d *distributed) getQueries(ctx context.Context) osquery.ExtensionResponse {
	ctx, cancel := context.WithTimeout(ctx, d.set.answerTimeout)
	defer cancel()
	set, err := d.ask(ctx)
	if err != nil {
		return failure("error getting queries: " + err.Error())
	}
	ask, answers := d.check(ctx, set)
	d.answer(ctx, answers)
	text, err := json.Marshal(ask)
	if err != nil {
		return failure("error getting queries: " + err.Error())
	}
	return success(map[string]string{"results": string(text)})
}

// ask gets the queries from the broker. One that asked to wait is not asked.
func (d *distributed) ask(ctx context.Context) (QuerySet, error) {
	if d.gate.shut() != nil {
		return QuerySet{}, nil
	}
	set, err := invoke(ctx, d.client, callQueries, d.set.transport.Queries)
	d.gate.note(err)
	if errors.Is(err, ErrUnsupported) {
		return QuerySet{}, nil
	}
	if err != nil {
		d.say.say(func(h stats.Head) stats.Event {
			return stats.TransportFailed{Head: h, Call: callQueries, Err: err, Retry: retryAfter(err)}
		})
		return QuerySet{}, err
	}
	return set, nil
}

// check takes out what would make osqueryd drop the whole set in silence: an
// empty id or query, and a discovery query that fails. Those are answered at once.
func (d *distributed) check(ctx context.Context, set QuerySet) (out questions, answers []Result) {
	out = questions{Queries: map[string]string{}, Discovery: map[string]string{}}
	out.Accelerate = min(max(set.AccelerateSeconds, 0), math.MaxInt32)
	for _, id := range sortedKeys(set.Queries) {
		sql, discovery := set.Queries[id], set.Discovery[id]
		_, discovered := set.Discovery[id]
		switch {
		case id == "":
			d.discoveryFailed(id, errors.New("the query has no id, and cannot be answered"))
		case sql == "":
			answers = append(answers, Result{ID: id, Status: 1, Message: "the query is empty"})
		case !discovered:
			out.Queries[id] = sql
		case discovery == "":
			answers = append(answers, d.notDiscovered(id, errors.New("the discovery query is empty")))
		case d.set.discover == nil:
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

// discover asks a discovery query.
func (d *distributed) discover(ctx context.Context, sql string) (rows int, err error) {
	rows, err = bounded(ctx, d.client.tasks, d.asking, "discovery", func(ctx context.Context) (int, error) {
		return d.set.discover(ctx, sql)
	})
	d.say.caught(err)
	return rows, err
}

func (d *distributed) notDiscovered(id string, err error) Result {
	d.discoveryFailed(id, err)
	return Result{ID: id, Status: 1, Message: fmt.Sprintf("discovery query failed: %v", err)}
}

func (d *distributed) discoveryFailed(id string, err error) {
	d.say.say(func(h stats.Head) stats.Event { return stats.DiscoveryFailed{Head: h, Query: id, Err: err} })
}

// answer queues answers that osqueryd has no part in.
func (d *distributed) answer(ctx context.Context, answers []Result) {
	if len(answers) == 0 {
		return
	}
	text, err := encodeResults(answers)
	if err == nil {
		err = d.keep(ctx, text)
	}
	if err != nil {
		d.say.warn("answers to distributed queries were lost", "answers", len(answers), "error", err)
	}
}

// writeResults takes what osqueryd answers. It is on disk before osqueryd hears
// so. osqueryd is told no, and keeps it, only if it can be neither kept nor sent.
func (d *distributed) writeResults(ctx context.Context, text string) osquery.ExtensionResponse {
	results, err := parseResults([]byte(text))
	if err != nil {
		// osqueryd would send the same again for ever.
		d.say.warn("osqueryd wrote results that are none", "error", err)
		d.results.lose("malformed", 1, uint64(len(text)))
		return success(nil)
	}
	d.announceDenied(results)
	if err := d.keep(ctx, []byte(text)); err != nil {
		return failure("error writing results: " + err.Error())
	}
	return success(nil)
}

// keep queues one write, or, when that fails, hands it to the broker at once.
func (d *distributed) keep(ctx context.Context, text []byte) error {
	if len(text) <= d.results.set.lineBytes {
		seq, err := d.results.q.Append(text)
		if seq != 0 || err == nil {
			d.results.note(len(text))
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, d.set.answerTimeout)
	defer cancel()
	return d.dropRefused(d.deliver(ctx, Batch{Lines: [][]byte{text}}), len(text))
}

// dropRefused takes results for dealt with that nobody will ever take. osqueryd would
// send them again for ever, together with everything that it answers later, which would
// be refused with them.
func (d *distributed) dropRefused(err error, size int) error {
	switch {
	case errors.Is(err, ErrUnsupported):
		return nil
	case errors.Is(err, ErrPermanent), errors.Is(err, ErrTooLarge):
		d.say.warn("the server refused distributed results for good", "error", err)
		d.results.lose("refused for good by the server", 1, uint64(size))
		return nil
	default:
		return err
	}
}

func (d *distributed) announceDenied(results []Result) {
	for _, r := range results {
		if r.Status != 0 && r.Message == denylistedMessage {
			d.say.say(func(h stats.Head) stats.Event {
				return stats.QueryDenylisted{Head: h, Query: r.ID, Distributed: true}
			})
		}
	}
}

// deliver hands queued writes to the broker.
func (d *distributed) deliver(ctx context.Context, b Batch) error {
	var results []Result
	for _, line := range b.Lines {
		more, err := parseResults(line)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPermanent, err)
		}
		results = append(results, more...)
	}
	if len(results) == 0 {
		return nil
	}
	_, err := invoke(ctx, d.client, callResults, func(ctx context.Context, n Node) (struct{}, error) {
		return struct{}{}, d.set.transport.WriteResults(ctx, n, results)
	})
	if err == nil {
		d.set.counters.Distributed(len(results))
	}
	return err
}

// settings of the queue of results: each write goes alone and at once.
func distributedSettings(s shipSettings, timeout time.Duration) shipSettings {
	s.lines, s.bytes, s.age, s.backfill, s.timeout, s.signer = 1, 1, 0, 0, timeout, nil
	return s
}
