package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/plugin"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// tablesName is what osqueryd knows the registration of the host's tables by.
const tablesName = extensionName + "_tables"

// extensionVersion is the version that we report to osqueryd; it refuses old ones.
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

// hangUp closes the connections to osqueryd and leaves those from it.
func (s *session) hangUp() {
	if s.sentinel != nil {
		_ = s.sentinel.Close()
	}
	_ = s.control.Close() // it always succeeds
}

// close ends everything of the session. Calls of the host's code that do not
// return within the timeout are left to themselves; their answers go nowhere.
func (s *session) close(timeout time.Duration) {
	s.hangUp()
	ctx, cancel := context.WithTimeout(context.Background(), timeout*4/5)
	defer cancel()
	guard.Within(timeout, func() { // the removal of the sockets' files may outlast ctx
		s.plugins.close(ctx)
		s.tables.close(ctx)
	})
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
	*plugin.Extension
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

// callTable reads one of osqueryd's own tables by the extension protocol instead of
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

// fill registers tables first and what osqueryd waits for last, so that the
// tables are there when its schedule starts.
func (r *run) fill(ctx context.Context, s *session) (err error) {
	if s.sentinel, err = thriftconn.Watch(ctx, r.in.Socket()); err != nil {
		return err
	}
	r.learnIdentity(ctx, s.control)
	if s.tables, err = r.registerTables(ctx, s.control); err != nil {
		return err
	}
	s.plugins, err = r.in.register(ctx, s.control, extensionName, pluginsOf(r.in.ext.Registry()))
	if err != nil {
		return err
	}
	return r.verify(ctx, s)
}

// learnIdentity reads osqueryd's instance_id before the first call of the transport needs it. A
// failure does not prevent the registration: the enrolment reads it again.
func (r *run) learnIdentity(ctx context.Context, c *thriftconn.Conn) {
	if r.o.hostID != "" {
		return
	}
	rows, err := callTable(ctx, c, "osquery_info")
	if err != nil || len(rows) == 0 {
		r.log.Debug("osqueryd's instance_id could not be read yet", "err", err)
		return
	}
	r.in.noteIdentity(rows[0])
}

// registerTables registers the host's tables, without those whose names osqueryd
// has already.
func (r *run) registerTables(ctx context.Context, c *thriftconn.Conn) (*registration, error) {
	r.tablesHave = r.in.tablesSet.Load() // before they are read: a later SetTables is seen
	reg := r.in.ext.TableRegistry()
	if reg == nil {
		return nil, nil
	}
	g, err := r.in.register(ctx, c, tablesName, reg)
	if !thriftconn.IsDuplicateItem(err) {
		return g, err
	}
	if err := r.parkTables(ctx, c, reg, err); err != nil {
		return nil, err
	}
	if reg = r.in.ext.TableRegistry(); reg == nil {
		return nil, nil
	}
	return r.in.register(ctx, c, tablesName, reg)
}

// parkTables leaves out the tables that osqueryd, or somebody else's extension, has.
func (r *run) parkTables(ctx context.Context, c *thriftconn.Conn, reg osquery.ExtensionRegistry, why error) error {
	rows, err := callTable(ctx, c, "osquery_registry")
	if err != nil {
		return err
	}
	parked := 0
	for _, row := range rows {
		name := row["name"]
		if _, ours := reg["table"][name]; !ours || row["registry"] != "table" {
			continue
		}
		parked++
		r.in.ext.ParkTable(name)
		r.in.emit(stats.TableParked{Head: r.in.head(), Table: name, Err: why})
	}
	if parked == 0 {
		return why
	}
	return nil
}

// verify looks for our registrations in osqueryd's list: that it answered the
// registration, or a ping, is no proof that it kept it.
func (r *run) verify(ctx context.Context, s *session) error {
	list, err := s.control.Extensions(ctx)
	if err != nil {
		return err
	}
	return errors.Join(s.plugins.listed(list), s.tables.listed(list))
}

// adopt makes s the run's session.
func (r *run) adopt(s *session) {
	again := r.sessions > 0
	r.sessions++
	r.met, r.workerless, r.begun = time.Now(), false, false
	r.in.mu.Lock()
	r.session = s
	r.in.mu.Unlock()
	r.announce(again)
}

// announce announces the registrations as they are now.
func (r *run) announce(again bool) {
	r.in.emit(stats.ExtensionRegistered{
		Head: r.in.head(), UUID: r.session.plugins.uuid, Again: again,
		Plugins: r.session.plugins.count() + r.session.tables.count(),
	})
}

// fullCheckEvery is how many checks of the list of extensions there are to one
// of every single plugin. osqueryd drops all plugins of an extension together, so
// the list alone is enough almost always; the full registry is some hundred rows long.
const fullCheckEvery = 6

// errTablesMissing is the loss of a registration that was given up half way.
var errTablesMissing = errors.New("the host's tables are not registered")

// lost is what osqueryd lacks of each of the two registrations.
type lost struct{ plugins, tables error }

func (l lost) any() bool { return l.plugins != nil || l.tables != nil }

// findLost looks for our registrations, now and then for every single plugin. An
// error means that osqueryd did not answer.
func (r *run) findLost(ctx context.Context) (lost, error) {
	s := r.session
	list, err := s.control.Extensions(ctx)
	if err != nil {
		return lost{}, err
	}
	l := lost{plugins: s.plugins.listed(list), tables: s.tables.listed(list)}
	if s.tables == nil && r.in.ext.HasTables() {
		l.tables = errTablesMissing
	}
	r.health.checks++
	if l.any() || r.health.checks%fullCheckEvery != 1 {
		return l, nil
	}
	return r.findLostPlugins(ctx)
}

// findLostPlugins looks for every single plugin of ours in the registry.
func (r *run) findLostPlugins(ctx context.Context) (lost, error) {
	rows, err := callTable(ctx, r.session.control, "osquery_registry")
	if err != nil {
		return lost{}, err
	}
	owned := map[string][]string{}
	for _, row := range rows {
		key := row["owner_uuid"] + " " + row["registry"]
		owned[key] = append(owned[key], row["name"])
	}
	return lost{plugins: r.session.plugins.owns(owned), tables: r.session.tables.owns(owned)}, nil
}

// owns looks for each plugin of a registration among those that osqueryd holds for it.
func (g *registration) owns(owned map[string][]string) error {
	if g == nil {
		return nil
	}
	for registry, items := range g.items {
		have := owned[strconv.FormatInt(g.uuid, 10)+" "+registry]
		for _, item := range items {
			if !slices.Contains(have, item) {
				return fmt.Errorf("osqueryd's registry lacks our %s %q", registry, item)
			}
		}
	}
	return nil
}

// repair registers with the same worker again what was lost, and nothing else: a
// registration that still stands may be in use this very moment.
func (r *run) repair(ctx context.Context, l lost) error {
	began, why := time.Now(), errors.Join(l.tables, l.plugins)
	r.in.emit(stats.RegistrationLost{Head: r.in.head(), Err: why})
	var err error
	if l.tables != nil {
		err = r.exchangeTables(ctx)
	}
	if l.plugins != nil && err == nil {
		err = r.exchangePlugins(ctx)
	}
	if err == nil {
		err = r.verify(ctx, r.session)
	}
	if err != nil {
		return fmt.Errorf("registering again because %w: %w", why, err)
	}
	r.announce(true)
	r.in.emit(stats.RegistrationRestored{Head: r.in.head(), Elapsed: time.Since(began)})
	return nil
}

// exchangePlugins registers the plugins anew and then ends the server of the old registration.
func (r *run) exchangePlugins(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().timeouts.Register)
	defer cancel()
	g, err := r.in.register(ctx, r.session.control, extensionName, pluginsOf(r.in.ext.Registry()))
	if err != nil {
		return err
	}
	old := r.session.plugins
	r.in.mu.Lock()
	r.session.plugins = g
	r.in.mu.Unlock()
	r.closeRegistration(old)
	return nil
}

// exchangeTables takes the old tables away and registers the new ones.
func (r *run) exchangeTables(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.in.live.Load().timeouts.Register)
	defer cancel()
	if old := r.session.tables; old != nil {
		if err := r.session.control.Deregister(ctx, old.uuid); err != nil && !thriftconn.IsNotRegistered(err) {
			return err
		}
		r.session.tables = nil
		r.closeRegistration(old)
	}
	g, err := r.registerTables(ctx, r.session.control)
	if err != nil {
		return err
	}
	r.session.tables = g
	return nil
}

func (r *run) closeRegistration(g *registration) {
	ctx, cancel := context.WithTimeout(context.Background(), r.in.live.Load().timeouts.giveUp())
	defer cancel()
	g.close(ctx)
}

// syncTables registers tables that were set while the run was not ready for it, or could
// not be exchanged when they were. The next check of health tries again what fails.
func (r *run) syncTables(ctx context.Context) {
	if r.tablesHave == r.in.tablesSet.Load() {
		return
	}
	if err := r.exchangeTables(ctx); err != nil {
		r.log.Warn("tables that were set could not be registered yet", "err", err)
	}
}

// hangUp closes our connections to osqueryd: its server waits for
// clients when it stops.
func (r *run) hangUp() {
	if r.session != nil {
		r.session.hangUp()
	}
}

// closeSession ends the session with the current worker, if there is one, within d.
func (r *run) closeSession(d time.Duration) {
	r.in.mu.Lock()
	s := r.session
	r.session = nil
	r.in.mu.Unlock()
	if s != nil {
		s.close(d)
	}
}
