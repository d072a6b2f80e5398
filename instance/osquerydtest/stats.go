package osquerydtest

import "sync/atomic"

// Stats is what a worker counts.
type Stats struct {
	Connections       int64 `json:"connections"`        // open now
	ConnectionsTotal  int64 `json:"connections_total"`  // ever accepted
	Pings             int64 `json:"pings"`              // received
	Calls             int64 `json:"calls"`              // registry calls received
	Queries           int64 `json:"queries"`            // received
	MaxQueries        int64 `json:"max_queries"`        // most at the same time
	SecondDatabases   int64 `json:"second_databases"`   // queries that found the database busy
	Registrations     int64 `json:"registrations"`      // accepted
	Refusals          int64 `json:"refusals"`           // registrations refused
	Deregistrations   int64 `json:"deregistrations"`    //
	Checks            int64 `json:"checks"`             // periodic pings that an extension answered
	GoneAway          int64 `json:"gone_away"`          // extensions dropped after a failed ping
	ExtensionCalls    int64 `json:"extension_calls"`    // made to extensions
	ExtensionFailures int64 `json:"extension_failures"` // of those
	Scheduled         int64 `json:"scheduled"`          // scheduled queries run
	ResultLines       int64 `json:"result_lines"`       // given to the logger
	DistributedReads  int64 `json:"distributed_reads"`  //
	DistributedWrites int64 `json:"distributed_writes"` //
	Refreshes         int64 `json:"refreshes"`          // config asked for
}

// counters are the live Stats.
type counters struct {
	conns, connsTotal, pings, calls, queries, maxQueries, running, second  atomic.Int64
	registered, refused, deregistered, checks, gone, extCalls, extFailures atomic.Int64
	scheduled, lines, reads, writes, refreshes                             atomic.Int64
}

func (c *counters) snapshot() *Stats {
	return &Stats{
		Connections: c.conns.Load(), ConnectionsTotal: c.connsTotal.Load(), Pings: c.pings.Load(), Calls: c.calls.Load(),
		Queries: c.queries.Load(), MaxQueries: c.maxQueries.Load(), SecondDatabases: c.second.Load(),
		Registrations: c.registered.Load(), Refusals: c.refused.Load(), Deregistrations: c.deregistered.Load(),
		Checks: c.checks.Load(), GoneAway: c.gone.Load(), ExtensionCalls: c.extCalls.Load(), ExtensionFailures: c.extFailures.Load(),
		Scheduled: c.scheduled.Load(), ResultLines: c.lines.Load(), DistributedReads: c.reads.Load(),
		DistributedWrites: c.writes.Load(), Refreshes: c.refreshes.Load(),
	}
}

// queryStarts counts a query in and remembers the most at once.
func (c *counters) queryStarts() (ends func()) {
	c.queries.Add(1)
	n := c.running.Add(1)
	for {
		most := c.maxQueries.Load()
		if n <= most || c.maxQueries.CompareAndSwap(most, n) {
			return func() { c.running.Add(-1) }
		}
	}
}
