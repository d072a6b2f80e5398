package fakeosqueryd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"
)

// noContext: osqueryd cannot cancel a call; deadlines are on the connection.
func noContext() context.Context { return context.Background() }

// extClient is one connection to an extension.
type extClient struct {
	conn   net.Conn
	client *osquery.ExtensionClient
	undo   func() bool
}

func (c *extClient) close() {
	c.undo()
	_ = c.conn.Close()
}

func (r *registry) socketOf(uuid osquery.ExtensionRouteUUID) string {
	return fmt.Sprintf("%s.%d", r.w.p.flags.str("extensions_socket"), uuid)
}

// dial connects to an extension. timeout bounds the whole connection; 0 is
// thrift_timeout.
func (r *registry) dial(uuid osquery.ExtensionRouteUUID, timeout time.Duration) (*extClient, error) {
	p := r.w.p
	if timeout == 0 {
		timeout = p.flags.seconds("thrift_timeout")
	}
	timeout = p.conf.deadline(timeout)
	conn, err := dialPipe(r.socketOf(uuid), timeout)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	// A process played by goroutines must not outlive its end in a call.
	undo := context.AfterFunc(p.deadCtx, func() { _ = conn.Close() })
	trans := thrift.NewTBufferedTransport(rawTransport{conn}, 4096)
	proto := thrift.NewTBinaryProtocolFactoryConf(nil)
	client := osquery.NewExtensionClientFactory(trans, proto)
	return &extClient{conn: conn, client: client, undo: undo}, nil
}

// ping is the watcher's bare ping.
func (r *registry) ping(uuid osquery.ExtensionRouteUUID) error {
	return r.pingWithin(uuid, 0)
}

func (r *registry) pingWithin(uuid osquery.ExtensionRouteUUID, timeout time.Duration) error {
	c, err := r.dial(uuid, timeout)
	if err != nil {
		return err
	}
	defer c.close()
	st, err := c.client.Ping(noContext())
	if err == nil && osquery.ExtensionCode(st.Code) != osquery.ExtensionCode_EXT_SUCCESS {
		err = fmt.Errorf("ping failed: %s", st.Message)
	}
	return err
}

// pingExtension is the check before each call: 10 s, and a text of its own.
func (r *registry) pingExtension(uuid osquery.ExtensionRouteUUID) error {
	if r.pingWithin(uuid, 10*time.Second) != nil {
		return fmt.Errorf("Extension socket not available: %s", r.socketOf(uuid)) //nolint:staticcheck // osqueryd's text
	}
	return nil
}

// result is a plugin's answer.
type result struct {
	code    int32
	message string
	rows    osquery.ExtensionPluginResponse
}

func failure(format string, args ...any) result {
	return result{code: 1, message: fmt.Sprintf(format, args...)}
}

func (s result) err() error {
	if s.code == 0 {
		return nil
	}
	return errors.New(s.message)
}

// call calls a plugin, core's own or an extension's.
func (r *registry) call(reg, name string, req map[string]string) result {
	if e, ok := r.owner(reg, name); ok {
		return r.callExtension(e.uuid, reg, name, req)
	}
	return r.callBuiltin(reg, name, req)
}

// callExtension uses two connections, as core does: a ping, then the call.
func (r *registry) callExtension(uuid osquery.ExtensionRouteUUID, reg, name string, req map[string]string) result {
	r.w.count.extCalls.Add(1)
	if err := r.pingExtension(uuid); err != nil {
		r.w.count.extFailures.Add(1)
		return failure("%s", err)
	}
	c, err := r.dial(uuid, 0)
	if err != nil {
		r.w.count.extFailures.Add(1)
		return failure("Extension call failed: %s", err)
	}
	defer c.close()
	resp, err := c.client.Call(noContext(), reg, name, req)
	if err != nil || resp.Status == nil {
		r.w.count.extFailures.Add(1)
		return failure("Extension call failed: %v", err)
	}
	return result{code: resp.Status.Code, message: resp.Status.Message, rows: resp.Response}
}

// callActive calls the active plugin of a registry.
func (r *registry) callActive(reg string, req map[string]string) result {
	return r.call(reg, r.activeName(reg), req)
}

// rawTransport is a net.Conn as Thrift wants it, without the liveness checks
// of thrift's own socket.
type rawTransport struct{ net.Conn }

func (rawTransport) Flush(context.Context) error { return nil }
func (rawTransport) IsOpen() bool                { return true }
func (rawTransport) Open() error                 { return nil }
func (rawTransport) RemainingBytes() uint64      { return ^uint64(0) }

// extension is what has registered itself.
type extension struct {
	uuid osquery.ExtensionRouteUUID
	info osquery.InternalExtensionInfo
	// plugins by registry, with the routes given at registration
	plugins map[string]map[string]osquery.ExtensionPluginResponse
	checked bool // was pinged with success once
}

// minSDK is the oldest SDK that core accepts.
const minSDK = "1.7.7"

// versionAtLeast compares dotted numbers; an empty version passes.
func versionAtLeast(least, version string) bool {
	if version == "" {
		return true
	}
	return slices.CompareFunc(numbers(version), numbers(least), cmp.Compare[int]) >= 0
}

func numbers(version string) []int {
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		digits := strings.TrimRight(part, "abcdefghijklmnopqrstuvwxyz-+ABCDEFGHIJKLMNOPQRSTUVWXYZ")
		n, _ := strconv.Atoi(digits)
		out = append(out, n)
	}
	return out
}

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
