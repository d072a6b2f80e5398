package osquerydtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	gen "github.com/osquery/osquery-go/gen/osquery"
)

// peer is an extension without any help: it notes every call it gets.
type peer struct {
	t      *testing.T
	d      *daemon
	uuid   gen.ExtensionRouteUUID
	ln     net.Listener
	config string

	mu    sync.Mutex
	calls []string
	heard chan struct{} // closed and replaced at each call
	rows  []map[string]string
	hold  chan struct{} // a generate waits for it, when not nil
}

func okStatus() *gen.ExtensionStatus { return &gen.ExtensionStatus{Message: "OK"} }

// peerRegistry is what a peer registers.
func peerRegistry() gen.ExtensionRegistry {
	return gen.ExtensionRegistry{
		"config": {"peer": {}}, "logger": {"peer": {}}, "distributed": {"peer": {}},
		"table": {"peer_rows": {
			{"id": "column", "name": "name", "type": "TEXT", "op": "0"},
			{"id": "column", "name": "n", "type": "INTEGER", "op": "0"},
		}},
	}
}

// connect registers a peer and serves it.
func (d *daemon) connect(p *peer) *peer {
	d.t.Helper()
	p.t, p.d, p.heard = d.t, d, make(chan struct{})
	d.until("the socket", func() bool {
		c, err := dialShort(filepath.Join(d.dir, "em"))
		if err != nil {
			return false
		}
		defer c.Close()
		st, err := c.RegisterExtension(&gen.InternalExtensionInfo{Name: "peer", Version: "1"}, peerRegistry())
		if err != nil || st.Code != 0 {
			return false
		}
		p.uuid = st.UUID
		return true
	})
	ln, err := net.Listen("unix", fmt.Sprintf("%s.%d", filepath.Join(d.dir, "em"), p.uuid))
	if err != nil {
		d.t.Fatal(err)
	}
	p.ln = ln
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { p.serve(conn) })
		}
	})
	d.t.Cleanup(func() {
		ln.Close()
		killGroup(d.cmd.Process.Pid) // its connections end with it
		wait.Wait()
	})
	return p
}

func (p *peer) serve(conn net.Conn) {
	defer conn.Close()
	trans := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(conn, nil), 4096)
	proto := thrift.NewTBinaryProtocolConf(trans, nil)
	processor := gen.NewExtensionProcessor(p)
	for {
		if ok, err := processor.Process(context.Background(), proto, proto); !ok || err != nil {
			return
		}
	}
}

func (p *peer) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, fmt.Sprintf(format, args...))
	close(p.heard)
	p.heard = make(chan struct{})
}

// await waits for a call that contains text, and forgets all up to it.
func (p *peer) await(text string) []string {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		heard := p.heard
		for i, call := range p.calls {
			if strings.Contains(call, text) {
				out := slices.Clone(p.calls[:i+1])
				p.calls = p.calls[i+1:]
				p.mu.Unlock()
				return out
			}
		}
		p.mu.Unlock()
		select {
		case <-heard:
		case <-timeout:
			p.t.Fatalf("no call with %q; stderr:\n%s", text, p.d.stderr)
		}
	}
}

// take returns what was noted and not yet taken.
func (p *peer) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.calls
	p.calls = nil
	return out
}

// Ping is asked before each call and every few seconds: it is not noted.
func (p *peer) Ping(context.Context) (*gen.ExtensionStatus, error) { return okStatus(), nil }

// Shutdown is noted.
func (p *peer) Shutdown(context.Context) error {
	p.note("shutdown")
	return nil
}

// Call answers as a well-behaved extension does.
func (p *peer) Call(_ context.Context, reg, item string, req gen.ExtensionPluginRequest) (*gen.ExtensionResponse, error) {
	p.note("call %s %s %s", reg, item, p.d.scrub(requestText(req)))
	answer := func(rows ...map[string]string) (*gen.ExtensionResponse, error) {
		return &gen.ExtensionResponse{Status: okStatus(), Response: rows}, nil
	}
	switch {
	case req["action"] == "genConfig":
		p.mu.Lock()
		defer p.mu.Unlock()
		return answer(map[string]string{"main": p.config})
	case req["action"] == "genPack":
		return answer(map[string]string{req["name"]: `{"queries": {"q": {"query": "select 7", "interval": 70}}}`})
	case req["action"] == "features":
		return &gen.ExtensionResponse{Status: &gen.ExtensionStatus{Code: 1}}, nil
	case req["action"] == "getQueries":
		return answer(map[string]string{"results": `{"queries": {"good": "select 1 as one", "bad": "select * from absent"}}`})
	case reg == "table" && req["action"] == "generate":
		p.mu.Lock()
		rows, hold := p.rows, p.hold
		p.mu.Unlock()
		if hold != nil {
			<-hold
		}
		return answer(rows...)
	}
	return answer()
}

// requestText shows a request; JSON in it by its keys, for what changes from
// run to run.
func requestText(req map[string]string) string {
	out := map[string]string{}
	for k, v := range req {
		out[k] = v
		var list []map[string]any
		var object map[string]any
		switch {
		case k == "log" && json.Unmarshal([]byte(v), &list) == nil:
			out[k] = statusText(list)
		case k == "context":
		case json.Unmarshal([]byte(v), &object) == nil:
			out[k] = objectText(object)
		}
	}
	return rowText(out)
}

// statusText shows the keys and types of status lines, and the worst messages.
func statusText(list []map[string]any) string {
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(list[0])) {
		keys = append(keys, fmt.Sprintf("%s:%T", k, list[0][k]))
	}
	return strings.Join(keys, " ")
}

// objectText masks what is of the moment, and sorts the rest.
func objectText(object map[string]any) string {
	for k := range object {
		switch k {
		case "calendarTime", "unixTime":
			object[k] = fmt.Sprintf("%T", object[k])
		case "stats":
			object[k] = statsText(object[k])
		}
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}

func statsText(v any) any {
	stats, ok := v.(map[string]any)
	if !ok {
		return v
	}
	for name, s := range stats {
		if one, ok := s.(map[string]any); ok {
			stats[name] = slices.Sorted(maps.Keys(one))
		}
	}
	return stats
}
