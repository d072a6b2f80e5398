package osquerydtest_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	osquery "github.com/osquery/osquery-go"
	gen "github.com/osquery/osquery-go/gen/osquery"
)

func peerFlags(more ...string) []string {
	return append([]string{"--config_plugin=peer", "--logger_plugin=peer", "--distributed_plugin=peer", "--disable_distributed=false",
		"--distributed_interval=3600", "--extensions_require=peer", "--extensions_timeout=20"}, more...)
}

const peerConfig = `{"schedule": {"diff": {"query": "select name, n from peer_rows", "interval": 1},
	"snap": {"query": "select count(*) as n from peer_rows", "interval": 1, "snapshot": true}},
	"packs": {"named": "value of pack"}, "decorators": {"load": ["select 'yes' as decorated"]}}`

const everySecond = `{"schedule": {"snap": {"query": "select 1 as one", "interval": 1, "snapshot": true}}}`

// The calls that an extension gets from its registration to the end.
func TestDifferentialConversation(t *testing.T) {
	t.Parallel()
	for _, watchdog := range []string{"on", "off"} {
		differential(t, "conversation watchdog "+watchdog, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			d := s.launch(t, dir, base(dir, peerFlags(watchdogFlag(watchdog))...)...)
			p := d.connect(&peer{config: everySecond})
			// The schedule's thread relays and logs when it likes.
			for _, call := range p.await("writeResults") {
				if !strings.Contains(call, "status=") && !strings.Contains(call, "snapshot=") {
					o.add("%s", call)
				}
			}
			p.await("snapshot=")
			d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
			// osqueryd asks its extensions to shut down, but not always: it is not compared.
			o.add("end: %s", d.end())
			o.add("stderr:\n%s", d.said())
		})
	}
}

// What result lines look like.
func TestDifferentialResults(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{
		"results": nil, "results numerics": {"--logger_numerics"}, "results batch": {"--logger_event_type=false"},
		"results snapshot events": {"--logger_snapshot_event_type"}, "results decorated": {"--decorations_top_level"},
	} {
		differential(t, name, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			d := s.launch(t, dir, base(dir, peerFlags(append(flags, "--disable_watchdog")...)...)...)
			p := d.connect(&peer{config: peerConfig, rows: []map[string]string{{"name": "a", "n": "1"}, {"name": "b", "n": ""}}})
			lines := func(text string) {
				t.Helper()
				calls := p.await(text)
				o.add("%s", calls[len(calls)-1])
			}
			status := p.await("status=")
			o.add("%s", status[len(status)-1])
			packs := p.await(`\"counter\":0`)
			for _, call := range packs {
				if strings.Contains(call, "genPack") {
					o.add("%s", call)
				}
			}
			o.add("%s", d.ask("select name, query, interval from osquery_schedule order by name"))
			p.mu.Lock()
			p.rows = []map[string]string{{"name": "c", "n": "3"}}
			p.mu.Unlock()
			lines(`\"counter\":1`)
			lines("snapshot")
		})
	}
}

// How a table of an extension is asked, and what a query in flight does to an end.
func TestDifferentialTable(t *testing.T) {
	t.Parallel()
	differential(t, "table", func(t *testing.T, s *subject, o *transcript) {
		dir := root(t)
		d := s.launch(t, dir, base(dir, peerFlags("--disable_watchdog")...)...)
		p := d.connect(&peer{config: "{}", rows: []map[string]string{{"name": "a", "n": "1"}, {"name": "b"}, {"n": "x", "more": "y"}}})
		p.await("writeResults")
		p.take()
		for _, q := range []string{
			"select * from peer_rows", "select n from peer_rows where name = 'a'", "select name from peer_rows where n > 0 and name like 'a%'",
			"select name from peer_rows where name in ('a', 'b')", "select count(*) as c from peer_rows",
		} {
			o.add("%s", d.ask(q))
			for _, call := range p.take() {
				if strings.Contains(call, "call table") {
					o.add("%s", call)
				}
			}
		}
	})
	differential(t, "query in flight", func(t *testing.T, s *subject, o *transcript) {
		dir := root(t)
		d := s.launch(t, dir, base(dir, peerFlags("--disable_watchdog")...)...)
		hold := make(chan struct{})
		p := d.connect(&peer{config: "{}", rows: []map[string]string{{"name": "a"}}, hold: hold})
		p.await("writeResults")
		c, err := osquery.NewClient(filepath.Join(dir, "em"), patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		answer := make(chan string, 1)
		go func() { answer <- answerText(c.Query("select name from peer_rows")) }()
		p.await("generate")
		d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
		p.await("shutdown")
		close(hold)
		o.add("answer after the request to stop: %s", <-answer)
		o.add("end: %s", d.end())
	})
}

// Who may register, and what a deregistered plugin does.
func TestDifferentialRegistration(t *testing.T) {
	t.Parallel()
	differential(t, "registration", func(t *testing.T, s *subject, o *transcript) {
		dir := root(t)
		d := s.launch(t, dir, base(dir, peerFlags("--disable_watchdog", "--extensions_interval=3600")...)...)
		p := d.connect(&peer{config: "{}"})
		p.await("writeResults")
		c, err := dialShort(filepath.Join(dir, "em"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		register := func(what string, info gen.InternalExtensionInfo, reg gen.ExtensionRegistry) gen.ExtensionRouteUUID {
			t.Helper()
			st, err := c.RegisterExtension(&info, reg)
			if err != nil {
				t.Fatal(err)
			}
			o.add("register %s: %d %s, uuid given: %v", what, st.Code, d.scrub(st.Message), st.UUID != 0)
			return st.UUID
		}
		info := func(name string) gen.InternalExtensionInfo {
			return gen.InternalExtensionInfo{Name: name, Version: "1"}
		}
		table := func(name string, routes ...map[string]string) gen.ExtensionRegistry {
			return gen.ExtensionRegistry{"table": {name: routes}}
		}
		col := map[string]string{"id": "column", "name": "c", "type": "TEXT", "op": "0"}
		register("a duplicate name", info("peer"), nil)
		register("a duplicate table", info("b"), table("peer_rows", col))
		register("a table of core's", info("c"), table("time", col))
		register("a duplicate plugin", info("d"), gen.ExtensionRegistry{"logger": {"peer": {}}})
		register("an unknown registry", info("e"), gen.ExtensionRegistry{"nothing": {"x": {}}})
		register("a table without routes", info("f"), table("empty"))
		register("an old SDK", gen.InternalExtensionInfo{Name: "g", Version: "1", SdkVersion: "1.7.6"}, nil)
		register("the oldest SDK", gen.InternalExtensionInfo{Name: "h", Version: "1", SdkVersion: "1.7.7"}, nil)
		register("no name", gen.InternalExtensionInfo{}, nil)
		uuid := register("another table", info("i"), table("other", col))
		o.add("%s", d.ask("select name, version, type from osquery_extensions where name != 'core' order by name"))
		o.add("%s", d.ask("select * from other"))
		for _, id := range []gen.ExtensionRouteUUID{uuid, uuid, 0} {
			st, err := c.DeregisterExtension(id)
			if err != nil {
				t.Fatal(err)
			}
			o.add("deregister: %d %s", st.Code, d.scrub(st.Message))
		}
		o.add("%s", d.ask("select * from other"))
		register("another table again", info("i"), table("other", col))
		o.add("stderr:\n%s", d.said())
	})
	for _, watchdog := range []string{"on", "off"} {
		differential(t, "deregistered logger watchdog "+watchdog, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			d := s.launch(t, dir, base(dir, peerFlags(watchdogFlag(watchdog))...)...)
			p := d.connect(&peer{config: everySecond})
			p.await("snapshot")
			c, err := dialShort(filepath.Join(dir, "em"))
			if err != nil {
				t.Fatal(err)
			}
			st, err := c.DeregisterExtension(p.uuid)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			o.add("deregister: %d %s", st.Code, st.Message)
			o.add("end: %s", d.end())
			o.add("stderr:\n%s", d.said())
		})
	}
}
