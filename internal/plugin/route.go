package plugin

import (
	"context"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
)

// The registries of osqueryd that the extension has plugins for.
const (
	registryConfig      = "config"
	registryLogger      = "logger"
	registryDistributed = "distributed"
	registryTable       = "table"
)

// Registry gives what to register: the three plugins and every table that is not
// parked. It also puts the tables in force, and from then on a failing source
// is covered by the last good config, as for an osqueryd that has none. Call it
// once for each registration of the plugins.
func (e *Extension) Registry() osquery.ExtensionRegistry {
	active, routes := e.openTables()
	e.tables.activate(active)
	e.configs.registered()
	e.mu.Lock()
	e.activated = map[string]bool{}
	e.mu.Unlock()
	plugin := func() osquery.ExtensionRouteTable {
		return osquery.ExtensionRouteTable{e.set.Name: osquery.ExtensionPluginResponse{}}
	}
	return osquery.ExtensionRegistry{
		registryConfig: plugin(), registryLogger: plugin(), registryDistributed: plugin(), registryTable: routes,
	}
}

// TableRegistry gives the tables alone, for a registration of their own, and puts them in
// force; nil when there are none. It does not touch what osqueryd has of the config.
func (e *Extension) TableRegistry() osquery.ExtensionRegistry {
	active, routes := e.openTables()
	e.tables.activate(active)
	if len(routes) == 0 {
		return nil
	}
	return osquery.ExtensionRegistry{registryTable: routes}
}

// HasTables says whether there are tables to register. It changes nothing.
func (e *Extension) HasTables() bool {
	active, _ := e.openTables()
	return len(active) > 0
}

// openTables gives every table that is not parked, and how it is registered.
func (e *Extension) openTables() (map[string]extension.Table, osquery.ExtensionRouteTable) {
	active, routes := map[string]extension.Table{}, osquery.ExtensionRouteTable{}
	for _, t := range e.tables.candidates() {
		name, columns, ok := e.describe(t)
		if !ok || e.tables.isParked(name) {
			continue
		}
		active[name], routes[name] = t, columns
	}
	return active, routes
}

// describe asks a table for its name and columns; one that panics or has none is
// left out.
func (e *Extension) describe(t extension.Table) (name string, columns osquery.ExtensionPluginResponse, ok bool) {
	err := e.say.Contain("table", func() error {
		name = t.Name()
		columns = t.Routes()
		return nil
	})
	return name, columns, err == nil && len(columns) > 0
}

// Call answers a call of osqueryd. It is bounded: a config by the config timeout,
// queries by the answer timeout, a log line by one write to the disk, a table by
// the table timeout. A panic in code of the host is answered
// with status 1 and announced.
func (e *Extension) Call(ctx context.Context, registry, item string, req map[string]string) osquery.ExtensionResponse {
	switch registry {
	case registryConfig, registryLogger, registryDistributed:
		if item != e.set.Name {
			return failure("Unknown registry item: " + item)
		}
	case registryTable:
		return e.callTable(ctx, item, req)
	default:
		return failure("Unknown registry: " + registry)
	}
	switch registry {
	case registryConfig:
		e.activate(registryConfig, req["action"] == "genConfig")
		return e.configs.call(ctx, req)
	case registryDistributed:
		e.activate(registryDistributed, req["action"] == "getQueries")
		return e.dist.call(ctx, req)
	default:
		if _, init := req["init"]; init {
			e.activate(registryLogger, true)
		}
		return e.loggers.call(req)
	}
}

func (e *Extension) callTable(ctx context.Context, name string, req map[string]string) osquery.ExtensionResponse {
	t, ok := e.tables.find(name)
	if !ok {
		return failure("Unknown registry item: " + name)
	}
	ctx, cancel := context.WithTimeout(ctx, e.set.TableTimeout)
	defer cancel()
	r, err := guard.Bounded(ctx, e.tasks, t.busy, "table "+name, func(ctx context.Context) (osquery.ExtensionResponse, error) {
		return t.Call(ctx, req), nil
	})
	e.say.AnnouncePanic(err)
	if err != nil {
		return failure(err.Error())
	}
	if r.Status == nil {
		r.Status = &osquery.ExtensionStatus{Code: 0, Message: "OK"}
	}
	return r
}

// activate tells the host that osqueryd asked for a plugin, the first time after
// a registration.
func (e *Extension) activate(what string, asked bool) {
	if !asked {
		return
	}
	e.mu.Lock()
	first := !e.activated[what]
	e.activated[what] = true
	e.mu.Unlock()
	if !first {
		return
	}
	if e.set.Activated == nil {
		return
	}
	_ = e.say.Contain("activation hook", func() error {
		e.set.Activated(what)
		return nil
	})
}
