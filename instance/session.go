package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
)

// extensionVersion is what we tell osqueryd of ourselves; it refuses old ones.
const extensionVersion = "1"

// session is our standing with one worker: it ends when the worker does, and a
// new one is made with the next. It belongs to the run's goroutine; only control
// is used by others too, under the instance's lock.
type session struct {
	control  *thriftconn.Conn     // registration, health, options, config push
	sentinel *thriftconn.Sentinel // its end is the worker's end
	pid      int                  // of the process that serves the socket
	file     os.FileInfo          // of the socket; nil for a named pipe
	// The plugins osqueryd depends on and the host's tables are registered apart,
	// so that tables can change, or collide, without taking the logger away for a
	// moment: a result that is logged in that moment would end osqueryd.
	plugins *registration
	tables  *registration // nil when there are none
}

// registration is one entry in osqueryd's list of extensions, and our server for it.
type registration struct {
	name    string
	uuid    int64
	items   map[string][]string // registry to item names, for verification
	server  *thriftconn.Server
	stopped chan struct{} // closed when the server's accept loop has ended
}

// register makes one registration and listens for osqueryd's calls. A stale entry
// of the same name, ours from before the connection was lost, is taken away first.
func (in *Instance) register(ctx context.Context, c *thriftconn.Conn, name string, reg osquery.ExtensionRegistry) (*registration, error) {
	uuid, err := c.Register(ctx, name, extensionVersion, reg)
	if thriftconn.IsDuplicate(err) {
		if err = deregisterName(ctx, c, name); err == nil {
			uuid, err = c.Register(ctx, name, extensionVersion, reg)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("registering extension %q: %w", name, err)
	}
	g := &registration{name: name, uuid: uuid, items: itemNames(reg), stopped: make(chan struct{})}
	l, err := in.listen(ctx, fmt.Sprintf("%s.%d", in.Socket(), uuid))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listening for osqueryd: %w", err), c.Deregister(ctx, uuid))
	}
	g.server = thriftconn.NewServer(watched{in.ext, &in.logging}, thriftconn.OnPanic(in.caughtPanic), thriftconn.WithServerLogger(in.log))
	go func() {
		defer close(g.stopped)
		_ = g.server.Serve(l) // it ends by Close, or with the listener, which health notices
	}()
	return g, nil
}

// watched is our extension, with the calls of its logger watched.
type watched struct {
	*extension.Extension
	logging *loggerCalls
}

// Call answers a call of osqueryd's.
func (w watched) Call(ctx context.Context, registry, item string, req map[string]string) osquery.ExtensionResponse {
	if registry == "logger" {
		defer w.logging.begin()()
	}
	return w.Extension.Call(ctx, registry, item, req)
}

// slowLogger is how long a line takes at most when nothing is wrong. osqueryd's patience is
// several times that.
const slowLogger = 5 * time.Second

// loggerCalls notes whether osqueryd had to wait for our logger.
type loggerCalls struct {
	mu    sync.Mutex
	open  map[*time.Time]bool // when the calls under way began
	waits time.Time           // when one ended that was slow
}

// begin returns what ends the call.
func (l *loggerCalls) begin() (end func()) {
	began := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[*time.Time]bool{}
	}
	l.open[&began] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, &began)
		if now := time.Now(); now.Sub(began) > slowLogger {
			l.waits = now
		}
	}
}

// stuck reports whether osqueryd has lately waited for our logger in vain.
func (l *loggerCalls) stuck(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for began := range l.open {
		if now.Sub(*began) > slowLogger {
			return true
		}
	}
	return !l.waits.IsZero() && now.Sub(l.waits) < time.Minute
}

// listen makes the file of the socket, which may hang with its file system.
func (in *Instance) listen(ctx context.Context, path string) (net.Listener, error) {
	var l net.Listener
	err := guard.Call(ctx, 0, func() (err error) {
		in.o.diskHook("listening")
		l, err = thriftconn.Listen(path)
		return err
	}, func() { _ = l.Close() })
	if err != nil {
		return nil, err
	}
	return l, nil
}

// close ends the server and waits for it, bounded by ctx.
func (g *registration) close(ctx context.Context) {
	if g == nil {
		return
	}
	_ = g.server.Close(ctx) // who does not return in time is left to itself
	<-g.stopped             // the listener is closed, which ends the loop
}

// count is the number of plugins.
func (g *registration) count() (n int) {
	if g == nil {
		return 0
	}
	for _, items := range g.items {
		n += len(items)
	}
	return n
}

// listed looks for the registration in osqueryd's list.
func (g *registration) listed(list osquery.InternalExtensionList) error {
	if g == nil {
		return nil
	}
	if info, ok := list[osquery.ExtensionRouteUUID(g.uuid)]; !ok || info.GetName() != g.name {
		return fmt.Errorf("osqueryd does not list our extension %q (UUID %d)", g.name, g.uuid)
	}
	return nil
}

func deregisterName(ctx context.Context, c *thriftconn.Conn, name string) error {
	list, err := c.Extensions(ctx)
	if err != nil {
		return err
	}
	for uuid, info := range list {
		if info.GetName() != name {
			continue
		}
		if err := c.Deregister(ctx, int64(uuid)); err != nil && !thriftconn.IsNotRegistered(err) {
			return err
		}
	}
	return nil
}

func itemNames(reg osquery.ExtensionRegistry) map[string][]string {
	items := map[string][]string{}
	for registry, table := range reg {
		if len(table) > 0 {
			items[registry] = slices.Sorted(maps.Keys(table))
		}
	}
	return items
}

// pluginsOf leaves the tables out, which have a registration of their own.
func pluginsOf(reg osquery.ExtensionRegistry) osquery.ExtensionRegistry {
	out := maps.Clone(reg)
	delete(out, "table")
	return out
}

// callTable asks one of osqueryd's own tables by the extension protocol instead of
// SQL: it needs none of osqueryd's one SQLite database, so no query is in its way.
func callTable(ctx context.Context, c *thriftconn.Conn, table string) ([]map[string]string, error) {
	status, rows, err := c.Call(ctx, "table", table, map[string]string{
		"action": "generate", "context": `{"constraints":[],"colsUsed":[]}`,
	})
	if err != nil {
		return nil, err
	}
	if status.Code != 0 {
		return nil, fmt.Errorf("osqueryd's table %s: %s", table, status.Message)
	}
	return rows, nil
}
