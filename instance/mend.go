package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// fullCheckEvery is how many checks of the list of extensions there are to one
// of every single plugin. osqueryd drops all plugins of an extension together, so
// the list alone tells almost always; the full registry is some hundred rows long.
const fullCheckEvery = 6

// errTablesMissing is the loss of a registration that was given up half way.
var errTablesMissing = errors.New("the host's tables are not registered")

// lost says, for each of the two registrations, what osqueryd lacks of it.
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

// noteDenylisted announces the queries that osqueryd has denylisted because it died in them.
// Its line about one, which can be forged, is the reason to look into its table.
func (r *run) noteDenylisted(ctx context.Context) {
	suspects := r.words.takeSuspects()
	if len(suspects) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.healthTimeout)
	defer cancel()
	rows, err := callTable(ctx, r.session.control, "osquery_schedule")
	if err != nil {
		r.log.Debug("osquery_schedule could not be read", "err", err)
		for _, name := range suspects {
			r.words.suspect(name) // for the next check
		}
		return
	}
	for _, row := range rows {
		line, _, _ := strings.Cut(row["name"], "\n") // all that a line of osqueryd's has of it
		if row["denylisted"] == "1" && slices.Contains(suspects, strings.TrimSpace(line)) {
			r.in.emit(stats.QueryDenylisted{Head: r.in.head(), Query: row["name"]})
		}
	}
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

// mend registers with the same worker again what was lost, and nothing else: a
// registration that still stands may be in use this very moment.
func (r *run) mend(ctx context.Context, l lost) error {
	began, why := time.Now(), errors.Join(l.tables, l.plugins)
	r.in.emit(stats.RegistrationLost{Head: r.in.head(), Err: why})
	r.log.Warn("osqueryd lost our registration; registering again", "err", why)
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
	r.in.emit(stats.RegistrationMended{Head: r.in.head(), Took: time.Since(began)})
	return nil
}

// exchangePlugins registers the plugins anew and then ends the server of the old registration.
func (r *run) exchangePlugins(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.o.registerTimeout)
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
	ctx, cancel := context.WithTimeout(ctx, r.o.registerTimeout)
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
	ctx, cancel := context.WithTimeout(context.Background(), r.o.killTimeout)
	defer cancel()
	g.close(ctx)
}

// syncTables registers tables that were set while the run was not ready for it, or could
// not be exchanged when they were. The next check of health tries again what fails.
func (r *run) syncTables(ctx context.Context) {
	if r.tablesHave == r.in.tablesAsked.Load() {
		return
	}
	if err := r.exchangeTables(ctx); err != nil {
		r.log.Warn("tables that were set could not be registered yet", "err", err)
	}
}
