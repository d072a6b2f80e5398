package osquerydtest_test

import (
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	osquery "github.com/osquery/osquery-go"
)

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// killGroup is for groups that this test made; one that is gone is no error.
func killGroup(leader int) { _ = syscall.Kill(-leader, syscall.SIGKILL) }

func dialShort(socket string) (*osquery.ExtensionManagerClient, error) {
	return osquery.NewClient(socket, 5*time.Second)
}

// Exit code and words of command lines that start nothing.
func TestDifferentialCommandLine(t *testing.T) {
	t.Parallel()
	tests := map[string][]string{
		"version":                {"--version"},
		"unknown flag":           {"--flagfile=", "--nosuchflag=1"},
		"unknown bare flag":      {"--flagfile=", "--nosuchflag"},
		"unknown single dash":    {"--flagfile=", "-nosuchflag=1"},
		"illegal number":         {"--flagfile=", "--schedule_timeout=xyz"},
		"illegal negative":       {"--flagfile=", "--schedule_timeout=-1"},
		"illegal bool":           {"--flagfile=", "--disable_watchdog=perhaps"},
		"empty number":           {"--flagfile=", "--schedule_timeout="},
		"all mistakes":           {"--flagfile=", "--one=1", "--schedule_timeout=xyz", "--disable_watchdog=perhaps", "--two", "--alarm_timeout=5", "--three=a b"},
		"probe":                  {"--flagfile=", "--disable_watchdog=false", "--watchdog_level=0", "--osqvisor_probe"},
		"probe with a bad value": {"--flagfile=", "--watchdog_level=high", "--osqvisor_probe", "--disable_tables=a,b"},
		"probe with low alarm":   {"--flagfile=", "--alarm_timeout=5", "--osqvisor_probe"},
		"low alarm":              {"--flagfile=", "--alarm_timeout=5"},
		"flagfile missing":       {"--flagfile=/no/such/file"},
		"flagfile missing, too":  {"--flagfile=/no/such/file", "--nosuchflag"},
		"argument missing":       {"--flagfile=", "--schedule_timeout"},
	}
	for name, args := range tests {
		differential(t, "cli "+name, func(t *testing.T, s *subject, o *transcript) {
			d := s.launch(t, root(t), args...)
			o.add("end: %s", d.end())
			o.add("stdout: %s", d.tidy(d.stdout.String()))
			o.add("stderr:\n%s", d.said())
		})
	}
}

func watchdogFlag(on string) string { return "--disable_watchdog=" + strconv.FormatBool(on == "off") }

// startCase is one way to start osqueryd wrongly.
type startCase struct {
	name  string
	args  []string
	stays string // a text on stderr after which it is up; empty: it ends
}

// ended tells an end as the transcript does. Without a watchdog and a socket a SIGTERM finds
// osqueryd before or after it has set its handler up, and it ends with 0 or 78.
func (c startCase) ended(watchdog, how string) string {
	if c.name == "socket path" && watchdog == "off" && (how == "exit status 0" || how == "exit status 78") {
		return "exit status 0 or 78"
	}
	return how
}

func TestTrial34EndsAreToldAlike(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, watchdog, how, want string }{
		{"socket path", "off", "exit status 0", "exit status 0 or 78"},
		{"socket path", "off", "exit status 78", "exit status 0 or 78"},
		{"socket path", "off", "exit status 1", "exit status 1"},
		{"socket path", "on", "exit status 78", "exit status 78"},
		{"socket directory", "off", "exit status 78", "exit status 78"},
	} {
		if got := (startCase{name: tt.name}).ended(tt.watchdog, tt.how); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// A version is not part of what is compared.
func TestTrial34VersionsAreNotCompared(t *testing.T) {
	t.Parallel()
	d := &daemon{s: &subject{bin: "/x/osqueryd"}, dir: "/x/dir"}
	for text, want := range map[string]string{
		"osqueryd version 5.23.1": "osqueryd version VERSION", "/x/osqueryd version 5.24.0-1": "BIN version VERSION-1", "address 10.2.3.4": "address 10.2.3.4",
	} {
		if got := d.tidy(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// What osqueryd says when its configuration is wrong, and whether it lives on.
func TestDifferentialStart(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 120)
	tests := []startCase{
		{"config plugin", []string{"--config_plugin=none"}, ""},
		{"logger plugin", []string{"--logger_plugin=none"}, ""},
		{"second logger plugin", []string{"--logger_plugin=stdout,none"}, ""},
		{"distributed plugin", []string{"--disable_distributed=false", "--distributed_plugin=none"}, ""},
		{"logger directory", []string{"--logger_path=/no/such"}, ""},
		{"required extension", []string{"--extensions_require=gone", "--extensions_timeout=1"}, "startup: Required extension not found"},
		{"required config", []string{"--config_plugin=gone", "--extensions_require=gone", "--extensions_timeout=1"}, ""},
		{"socket directory", []string{"--extensions_socket=/no/such/em"}, "Extension socket directory missing"},
		{"socket path", []string{"--extensions_socket=/tmp/" + long}, "path too long"},
	}
	for _, tt := range tests {
		for _, watchdog := range []string{"on", "off"} {
			differential(t, "start "+tt.name+" watchdog "+watchdog, func(t *testing.T, s *subject, o *transcript) {
				dir := root(t)
				writeConf(t, dir, "{}")
				args := append(base(dir, tt.args...), watchdogFlag(watchdog))
				d := s.launch(t, dir, args...)
				if tt.stays != "" {
					d.hears(tt.stays)
					d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
				}
				o.add("end: %s", tt.ended(watchdog, d.end()))
				o.add("stderr:\n%s", d.said())
				o.add("pidfile stays: %v", d.exists("pid"))
			})
		}
	}
}

func (d *daemon) terminate(pid int, sig syscall.Signal) {
	d.t.Helper()
	if err := syscall.Kill(pid, sig); err != nil {
		d.t.Fatal(err)
	}
}

// A config that cannot be read does not keep osqueryd from living.
func TestDifferentialConfigFile(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"config bad JSON": `{"schedule": `, "config no file": "", "config array": "[]", "config bad schedule": `{"schedule": 7, "packs": []}`,
		"config bad queries": `{"schedule": {"a": {}, "bneg": {"query": "select 1", "interval": -1}, "chuge": {"query": "select 1", "interval": 604801},
			"text": {"query": "select 1", "interval": "60"}, "word": {"query": "select 1", "interval": "abc"}, "default": {"query": "select 1"}}}`,
		"config options": `{"options": {"database_path": "/nowhere", "nosuch": 1, "schedule_timeout": "x", "logger_min_status": 1, "custom_mine": "a"}}`,
		"config pack": `{"packs": {"p": {"queries": {"q": {"query": "select 1", "interval": 60}}}, "text": "/no/such/pack.conf",
			"elsewhere": {"platform": "windows", "queries": {"q": {"query": "select 2", "interval": 60}}},
			"later": {"version": "99.0.0", "queries": {"q": {"query": "select 3", "interval": 60}}},
			"found": {"discovery": ["select 1 from osquery_info where 1 = 0"], "queries": {"q": {"query": "select 4", "interval": 60}}},
			"zbroken": {"discovery": ["select * from absent"], "queries": {"q": {"query": "select 5", "interval": 60}}},
			"*": {"many": {"queries": {"q": {"query": "select 6", "interval": 60}}}}}}`,
		"config comments": "# a\n{ // b\n \"schedule\": {\"q\": {\"query\": \"select 'http://x'\", \"interval\": 60}} /* c */ }",
	} {
		differential(t, name, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			if text != "" {
				writeConf(t, dir, text)
			}
			d := s.launch(t, dir, base(dir)...)
			d.ready()
			for _, q := range []string{
				"SELECT config_valid, extensions FROM osquery_info",
				"SELECT name, query, interval, denylisted FROM osquery_schedule ORDER BY name",
				"SELECT name, platform, version, shard, active FROM osquery_packs ORDER BY name",
				"SELECT name, value, default_value FROM osquery_flags WHERE name = 'schedule_timeout'",
				"SELECT name, value FROM osquery_flags WHERE name = 'logger_min_status'",
				"SELECT * FROM osquery_flags WHERE name = 'custom_mine'",
			} {
				o.add("%s", d.ask(q))
			}
			d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
			o.add("end: %s", d.end())
			o.add("stderr:\n%s", d.said())
		})
	}
}

// A second osqueryd beside a living one.
func TestDifferentialBusy(t *testing.T) {
	t.Parallel()
	for _, watchdog := range []string{"on", "off"} {
		for name, other := range map[string][]string{
			"pidfile busy":    nil,
			"database locked": {"--pidfile=pid2", "--extensions_socket=em2"},
		} {
			differential(t, name+" watchdog "+watchdog, func(t *testing.T, s *subject, o *transcript) {
				dir := root(t)
				writeConf(t, dir, "{}")
				first := s.launch(t, dir, base(dir)...)
				first.ready()
				args := append(base(dir, other...), watchdogFlag(watchdog))
				d := s.launch(t, dir, args...)
				o.add("end: %s", d.end())
				o.add("stderr:\n%s", d.said())
				o.add("pid2 stays: %v", d.exists("pid2"))
				first.ready()
			})
		}
	}
}

// What signals do, and what they leave behind.
func TestDifferentialSignals(t *testing.T) {
	t.Parallel()
	// By nohup SIGHUP is ignored, and would be by the children too; who listens hands on the default.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(heard) })
	for name, sig := range map[string]syscall.Signal{
		"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGUSR1": syscall.SIGUSR1, "SIGHUP": syscall.SIGHUP, "SIGQUIT": syscall.SIGQUIT,
	} {
		for _, watchdog := range []string{"on", "off"} {
			differential(t, "signal "+name+" watchdog "+watchdog, func(t *testing.T, s *subject, o *transcript) {
				d := s.up(t, watchdogFlag(watchdog))
				d.terminate(d.cmd.Process.Pid, sig)
				o.add("end: %s", d.end())
				o.add("stderr:\n%s", d.said())
				o.add("pidfile stays: %v", d.exists("pid"))
			})
		}
		differential(t, "signal "+name+" to the worker", func(t *testing.T, s *subject, o *transcript) {
			d := s.up(t)
			d.worksFor(4500 * time.Millisecond)
			worker := d.worker()
			d.terminate(worker, sig)
			d.until("another worker", func() bool { pid := d.child(); return pid != 0 && pid != worker })
			d.ready()
			o.add("replaced")
			d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
			o.add("end: %s", d.end())
			o.add("stderr:\n%s", d.said())
		})
	}
}

// worksFor waits until a worker is older than a quick death. A fake's time is
// shorter.
func (d *daemon) worksFor(real time.Duration) {
	if d.s.fake != nil {
		real /= 10
	}
	begin := time.Now()
	d.until("a worker of age", func() bool { return time.Since(begin) > real })
}

func (s *subject) up(t *testing.T, more ...string) *daemon {
	t.Helper()
	dir := root(t)
	writeConf(t, dir, "{}")
	d := s.launch(t, dir, base(dir, more...)...)
	d.ready()
	return d
}

func TestDifferentialWorkerKilledYoung(t *testing.T) {
	t.Parallel()
	differential(t, "worker killed young", func(t *testing.T, s *subject, o *transcript) {
		d := s.up(t)
		d.terminate(d.worker(), syscall.SIGKILL)
		// A request to stop during the pause that follows gives 0 soon or 78 after 15 s, as it hits: not compared.
		d.hears("respawning too quickly")
		o.add("stderr:\n%s", d.said())
	})
}

func TestDifferentialOrphan(t *testing.T) {
	t.Parallel()
	differential(t, "orphan", func(t *testing.T, s *subject, o *transcript) {
		d := s.up(t)
		worker := d.worker()
		d.terminate(d.cmd.Process.Pid, syscall.SIGKILL)
		d.until("the orphan's end", func() bool { return syscall.Kill(worker, 0) != nil || isZombie(worker) })
		o.add("end: %s", d.end())
		o.add("stderr:\n%s", d.said("detected killed watcher"))
		o.add("pidfile stays: %v, socket stays: %v", d.exists("pid"), d.exists("em"))
		next := s.launch(t, d.dir, base(d.dir)...)
		next.ready()
		o.add("the next one starts")
	})
}

// ask answers a query as text.
func (d *daemon) ask(sql string) string {
	d.t.Helper()
	c, err := dialShort(filepath.Join(d.dir, "em"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	return d.scrub(sql + "\n" + answerText(c.Query(sql)))
}
