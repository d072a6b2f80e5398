package osquerydtest

import (
	"encoding/json"
	"strconv"

	"github.com/osquery/osquery-go/gen/osquery"
)

// callBuiltin answers for core's own plugins.
func (r *registry) callBuiltin(reg, name string, req map[string]string) result {
	if _, known := builtinPlugins[reg]; !known {
		err := "Unknown registry requested: " + reg
		r.w.p.log.error("registry_factory.cpp:157", "%s registry %s plugin caused exception: %s", reg, name, err)
		return failure("%s", err)
	}
	// Core resolves an unknown item of config to the update plugin's answer,
	// whichever plugin is active.
	if reg == "config" {
		return r.w.config.call(name, req)
	}
	if !r.isBuiltin(reg, name) {
		return failure("Cannot call registry item: %s", name)
	}
	switch reg {
	case "table":
		return r.w.sql.callTable(name, req)
	case "database":
		return r.w.db.call(req)
	case "logger":
		return r.w.logs.callBuiltin(name, req)
	case "distributed":
		return r.distributedBuiltin(req)
	case "sql":
		return result{message: "OK"}
	}
	return failure("Plugin %s of registry %s cannot be called", name, reg)
}

// distributedBuiltin is the tls plugin: it is known, but reaches nobody.
func (r *registry) distributedBuiltin(req map[string]string) result {
	if req["action"] == "getQueries" {
		return result{message: "OK", rows: osquery.ExtensionPluginResponse{{"results": ""}}}
	}
	return failure("Request error: no TLS in this fake")
}

// callTable is action generate and columns of a built-in table.
func (e *engine) callTable(name string, req map[string]string) result {
	t := e.builtin(name)
	switch req["action"] {
	case "generate":
		got, err := t.generate(contextConditions(req["context"]))
		if err != nil {
			return failure("%s", err)
		}
		return result{message: "OK", rows: got}
	case "columns":
		var out osquery.ExtensionPluginResponse
		for _, c := range t.columns {
			out = append(out, map[string]string{"id": "column", "name": c.name, "type": c.kind, "op": "0"})
		}
		return result{message: "OK", rows: append(out, map[string]string{"id": "attributes", "attributes": "0"})}
	case "":
		return failure("Table plugins must include a request action")
	}
	return failure("Unknown table plugin action: %s", req["action"])
}

// contextConditions reads the equality constraints of a query context.
func contextConditions(context string) []condition {
	var in struct {
		Constraints []struct {
			Name string `json:"name"`
			List []struct {
				Op   json.RawMessage `json:"op"`
				Expr string          `json:"expr"`
			} `json:"list"`
		} `json:"constraints"`
	}
	if json.Unmarshal([]byte(context), &in) != nil {
		return nil
	}
	var out []condition
	for _, c := range in.Constraints {
		for _, l := range c.List {
			if string(l.Op) == strconv.Itoa(constraintOps["="]) {
				out = append(out, condition{column: c.Name, op: "=", values: []string{l.Expr}})
			}
		}
	}
	return out
}

// call is the database plugin, which any peer of the socket may use.
func (db *database) call(req map[string]string) result {
	domain, key := req["domain"], req["key"]
	if _, ok := req["action"]; !ok {
		return failure("Database plugin must include a request action")
	}
	known := false
	for _, d := range knownDomains {
		known = known || d == domain
	}
	if !known {
		return failure("Could not get column family for %s", domain)
	}
	switch req["action"] {
	case "get":
		v, ok := db.get(domain, key)
		if !ok {
			return failure("NotFound: ")
		}
		return result{message: "OK", rows: osquery.ExtensionPluginResponse{{"v": v}}}
	case "put":
		return plain(db.put(domain, key, req["value"]))
	case "remove":
		return plain(db.remove(domain, key))
	case "scan":
		var out osquery.ExtensionPluginResponse
		for _, k := range db.keys(domain, req["prefix"]) {
			out = append(out, map[string]string{"k": k})
		}
		return result{message: "OK", rows: out}
	}
	return failure("Unknown database plugin action")
}

func plain(err error) result {
	if err != nil {
		return failure("%s", err)
	}
	return result{message: "OK"}
}
