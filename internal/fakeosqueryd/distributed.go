package fakeosqueryd

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

const keyAccelerate = "distributed_accelerate_checkins_expire"

// distributed calls its plugin for queries, runs them and writes the results.
type distributed struct {
	w       *worker
	mu      sync.Mutex // one poll at a time
	results []distributedResult
}

type distributedResult struct {
	id, message string
	status      int
	rows        rows
	took        time.Duration
	measured    bool
}

func newDistributed(w *worker) *distributed { return &distributed{w: w} }

func (d *distributed) loop() {
	for {
		_ = d.poll() // osqueryd does not say either; the next poll tries again
		if !d.w.p.sleep(d.interval()) {
			return
		}
	}
}

// interval is 5 s while accelerated.
func (d *distributed) interval() time.Duration {
	p := d.w.p
	raw, _ := d.w.db.get(domainSettings, keyAccelerate)
	until, _ := strconv.ParseInt(raw, 10, 64)
	if raw != "" && time.Now().Unix() <= until {
		return p.conf.period(5 * time.Second)
	}
	return p.conf.period(max(p.flags.seconds("distributed_interval"), time.Second))
}

// poll is one round. It runs what an earlier round could not write, too.
func (d *distributed) poll() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.pull()
	if d.w.p.stopping() {
		return err
	}
	err = errors.Join(err, d.run())
	d.expire()
	return err
}

func (d *distributed) pull() error {
	d.w.count.reads.Add(1)
	res := d.w.registry.callActive("distributed", map[string]string{"action": "getQueries"})
	if res.code != 0 {
		return errors.New(res.message)
	}
	if len(res.rows) == 0 || res.rows[0]["results"] == "" {
		return nil
	}
	return d.accept(res.rows[0]["results"])
}

// accept stores the queries whose discovery gave rows. One discovery query
// that fails drops them all.
func (d *distributed) accept(work string) error {
	doc, err := parseObject(work)
	if err != nil {
		return errors.New("Error Parsing JSON") //nolint:staticcheck // osqueryd's text
	}
	found := map[string]bool{}
	discovery, _ := doc["discovery"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(discovery)) {
		got, err := d.w.sql.query(text(discovery[name]))
		if err != nil || text(discovery[name]) == "" {
			return errors.New("Distributed discovery query has an SQL error") //nolint:staticcheck // osqueryd's text
		}
		found[name] = len(got) > 0
	}
	queries, _ := doc["queries"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(queries)) {
		sql := text(queries[name])
		if sql == "" || name == "" {
			return errors.New("Distributed query is not a string") //nolint:staticcheck // osqueryd's text
		}
		if ok, asked := found[name]; !asked || ok {
			_ = d.w.db.put(domainDistributed, name, sql)
		}
	}
	d.accelerate(doc["accelerate"])
	return nil
}

// accelerate wants an integer, and ignores anything else.
func (d *distributed) accelerate(v any) {
	n, ok := v.(json.Number)
	if !ok {
		return
	}
	seconds, err := n.Int64()
	if err != nil {
		return
	}
	d.w.p.log.info("distributed.cpp:372", "Accelerating distributed query checkins for %d seconds", seconds)
	_ = d.w.db.put(domainSettings, keyAccelerate, strconv.FormatInt(time.Now().Unix()+seconds, 10))
}

func (d *distributed) run() error {
	for _, id := range d.w.db.keys(domainDistributed, "") {
		if d.w.p.stopping() {
			return nil
		}
		sql, _ := d.w.db.get(domainDistributed, id)
		_ = d.w.db.remove(domainDistributed, id)
		d.results = append(d.results, d.runOne(id, sql))
	}
	return d.flush()
}

// runOne marks a query as running while it runs: a death in between puts it on
// the denylist.
func (d *distributed) runOne(id, sql string) distributedResult {
	sum := sha256.Sum256([]byte(sql))
	key := hex.EncodeToString(sum[:])
	if since, ok := d.w.db.get(domainRunning, key); ok && !d.expired(since) {
		return distributedResult{id: id, status: 1, message: "distributed query is denylisted"}
	}
	_ = d.w.db.put(domainRunning, key, strconv.FormatInt(time.Now().Unix(), 10))
	begin := time.Now()
	d.w.p.at(PhaseScheduled, id+" "+sql)
	got, err := d.w.sql.query(sql)
	if !isClosed(d.w.p.dead) {
		_ = d.w.db.remove(domainRunning, key)
	}
	out := distributedResult{id: id, rows: got, took: time.Since(begin), measured: true}
	if err != nil {
		d.w.p.log.error("distributed.cpp:221", "Error executing distributed query: %s: %s", id, err)
		out.status, out.message = 1, err.Error()
	}
	return out
}

func (d *distributed) expired(since string) bool {
	n, _ := strconv.ParseInt(since, 10, 64)
	return time.Now().Unix() > n+d.w.p.flags.num("distributed_denylist_duration")
}

func (d *distributed) expire() {
	for _, key := range d.w.db.keys(domainRunning, "") {
		if since, _ := d.w.db.get(domainRunning, key); d.expired(since) {
			_ = d.w.db.remove(domainRunning, key)
		}
	}
}

// flush writes all results at once and keeps them when that fails.
func (d *distributed) flush() error {
	if len(d.results) == 0 {
		return nil
	}
	queries, statuses := map[string]rows{}, map[string]int{}
	messages, stats := map[string]string{}, map[string]any{}
	for _, r := range d.results {
		queries[r.id], statuses[r.id], messages[r.id] = nonNil(r.rows), r.status, r.message
		stats[r.id] = map[string]int64{}
		if r.measured {
			stats[r.id] = map[string]int64{"wall_time_ms": r.took.Milliseconds(), "user_time": 0, "system_time": 0, "memory": 0}
		}
	}
	d.w.count.writes.Add(1)
	body := object([]field{{"queries", queries}, {"statuses", statuses}, {"messages", messages}, {"stats", stats}})
	res := d.w.registry.callActive("distributed", map[string]string{"action": "writeResults", "results": body})
	if res.code == 0 {
		d.results = nil
	}
	return res.err()
}
