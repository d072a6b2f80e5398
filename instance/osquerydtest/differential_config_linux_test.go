package osquerydtest_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// --config_check and --config_dump say how a config is, and leave.
func TestDifferentialConfigCheck(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"good": `{"schedule": {"q": {"query": "select 1", "interval": 60}}}`, "bad": `{"schedule": `, "array": `[]`, "missing": "",
		"bad query": `{"schedule": {"q": {"query": "select from", "interval": 0}}}`,
	} {
		for _, mode := range []string{"check", "dump"} {
			differential(t, "config "+mode+" "+name, func(t *testing.T, s *subject, o *transcript) {
				dir := root(t)
				if text != "" {
					writeConf(t, dir, text)
				}
				d := s.launch(t, dir, base(dir, "--config_"+mode, "--ephemeral", "--disable_extensions")...)
				if name == "missing" && mode == "dump" { // it stays up
					d.hears("Error reading config")
					d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
				}
				o.add("end: %s", d.end())
				o.add("stdout:\n%s", d.tidy(d.stdout.String()))
				o.add("stderr:\n%s", d.said())
				o.add("pidfile %v, socket %v", d.exists("pid"), d.exists("em"))
			})
		}
	}
}

// Packs from files: one by its path, and many by a pattern.
func TestDifferentialPackFiles(t *testing.T) {
	t.Parallel()
	for name, packs := range map[string]string{
		"one": `{"one": "DIR/a.pack"}`, "many": `{"*": "DIR/*.pack"}`, "broken": `{"b": "DIR/broken.pack"}`, "none": `{"*": "DIR/*.none"}`,
		"directory": `{"d": "DIR"}`, "number": `{"n": 7}`, "inner": `{"*": {"x": 1, "y": {"queries": {"q": {"query": "select 1", "interval": 60}}}}}`,
	} {
		differential(t, "packs "+name, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			for file, text := range map[string]string{
				"a.pack":      `{"queries": {"q": {"query": "select 1", "interval": 60}}, "options": {"schedule_epoch": 7}}`,
				"b.pack":      "# comment\n" + `{"queries": {"r": {"query": "select 2", "interval": 70, "snapshot": true}}}`,
				"broken.pack": `{"queries": `,
			} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			writeConf(t, dir, `{"packs": `+strings.ReplaceAll(packs, "DIR", dir)+`}`)
			d := s.launch(t, dir, base(dir)...)
			d.ready()
			o.add("%s", d.ask("select name, query, interval from osquery_schedule order by name"))
			o.add("%s", d.ask("select name, active from osquery_packs order by name"))
			o.add("%s", d.ask("select value from osquery_flags where name = 'schedule_epoch'"))
			o.add("stderr:\n%s", d.said())
		})
	}
}

// The config is asked for again by a timer, and what it gives replaces what was.
func TestDifferentialRefresh(t *testing.T) {
	t.Parallel()
	differential(t, "refresh", func(t *testing.T, s *subject, o *transcript) {
		dir := root(t)
		config := func(query string) string {
			return `{"schedule": {"q": {"query": "` + query + `", "interval": 60}}, "options": {"custom_a": "` + query + `"}}`
		}
		d := s.launch(t, dir, base(dir, peerFlags("--disable_watchdog", "--config_refresh=1", "--config_accelerated_refresh=1")...)...)
		p := d.connect(&peer{config: config("select 1")})
		p.await("writeResults")
		o.add("%s", d.ask("select name, query from osquery_schedule"))
		change := func(to string) {
			t.Helper()
			p.mu.Lock()
			p.config = to
			p.mu.Unlock()
			p.take()
			p.await("genConfig")
			p.await("genConfig") // the first is applied by now
			o.add("%s", d.ask("select name, query from osquery_schedule"))
			o.add("%s", d.ask("select config_valid from osquery_info"))
			o.add("%s", d.ask("select value from osquery_flags where name = 'custom_a'"))
		}
		change(config("select 2"))
		change("{")
		change(config("select 3"))
		change("{}")
		d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
		o.add("end: %s", d.end())
	})
}
