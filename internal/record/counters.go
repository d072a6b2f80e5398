package record

import (
	"sync/atomic"

	"github.com/osqvisor/osqvisor/stats"
)

// Counters are the totals that change too often for an event each. Adding to
// them allocates nothing and takes no lock; all methods are safe for concurrent
// use, callbacks included. A negative number counts as 0. The zero value is ready.
type Counters struct {
	queries, queriesFailed, distributed      atomic.Uint64
	linesIn, bytesIn, configsServed          atomic.Uint64
	linesOut, bytesOut, linesDrop, bytesDrop atomic.Uint64
}

// Query counts one query of the host.
func (c *Counters) Query(failed bool) {
	c.queries.Add(1)
	if failed {
		c.queriesFailed.Add(1)
	}
}

// Distributed counts n distributed results written.
func (c *Counters) Distributed(n int) { c.distributed.Add(count(n)) }

// In counts one log line of n bytes from osqueryd.
func (c *Counters) In(n int) {
	c.linesIn.Add(1)
	c.bytesIn.Add(count(n))
}

// Out counts log lines that the transport accepted.
func (c *Counters) Out(lines, bytes int) {
	c.linesOut.Add(count(lines))
	c.bytesOut.Add(count(bytes))
}

// Dropped counts log lines that are lost.
func (c *Counters) Dropped(lines, bytes uint64) {
	c.linesDrop.Add(lines)
	c.bytesDrop.Add(bytes)
}

// Config counts one config served to osqueryd.
func (c *Counters) Config() { c.configsServed.Add(1) }

// addTo adds what was counted to t. A part is read before its whole, so that a
// snapshot taken meanwhile never shows more failed queries than queries.
func (c *Counters) addTo(t *stats.Totals) {
	t.QueriesFailed += c.queriesFailed.Load()
	t.Queries += c.queries.Load()
	t.Distributed += c.distributed.Load()
	t.ConfigsServed += c.configsServed.Load()
	t.LinesDropped += c.linesDrop.Load()
	t.BytesDropped += c.bytesDrop.Load()
	t.LinesOut += c.linesOut.Load()
	t.BytesOut += c.bytesOut.Load()
	t.LinesIn += c.linesIn.Load()
	t.BytesIn += c.bytesIn.Load()
}

// count makes n a number to add: a negative one counts as 0, because a total
// never falls.
func count(n int) uint64 { return uint64(max(n, 0)) }
