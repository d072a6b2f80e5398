package osquerydtest_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// flagEnv is what --fromenv finds.
var flagEnv = []string{
	"FLAGS_schedule_timeout=7", "FLAGS_alarm_timeout=5", "FLAGS_schedule_epoch=x", "FLAGS_tryfromenv=fromenv", "FLAGS_undefok=nosuchflag",
}

// flagFiles lie where the subject runs.
var flagFiles = map[string]string{
	"mistakes": "--pidfile\n--schedule_timeout=q\n--nosuch\n--alarm-timeout=5\n--nopidfile\n--watchdog_level high\n# --disable_audit=x\n",
	"names":    "otherprog\n--schedule_timeout=q\nosqueryx osqueryd\n--schedule_epoch=w\nosqueryd\nother\n--schedule-max-drift=u\n",
	"blanks":   "\n  --schedule_timeout=5  \n\t--disable_watchdog=true \n",
	"returns":  "--disable-watchdog=maybe\n--schedule_timeout=q\r\n--schedule_epoch=q\n",
	"nested":   "--flagfile=names\n--disable_audit=x",
}

func writeFlagFiles(t *testing.T, dir string) {
	t.Helper()
	for name, text := range flagFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// flagForms are command lines, each for a start of its own.
var flagForms = map[string][]string{
	"dashes": {
		"--disable-watchdog", "--disable-watchdog=perhaps", "--schedule-timeout=x", "--allow-unsafe", "--nosuch-flag", "---schedule_timeout=5",
		"--=5", "-=", "-", "--alarm-timeout=5", "--no-such-flag=1",
	},
	"no": {
		"--nodisable_extensions", "--nodisable_extensions=", "--nodisable_extensions=true", "--nodisable_extensions=x", "--nodisable-extensions",
		"--no-disable-extensions", "--no_disable_extensions", "--nopidfile", "--nopidfile=x", "--noschedule_timeout", "--no", "--no=1",
		"--nolog_numerics_as_numbers", "--nosocket",
	},
	"aliases": {
		"--socket=/x", "--timeout=3", "--interval=3", "--db_path=x", "--config_tls_refresh=3", "--config-tls-refresh=x",
		"--config_tls_accelerated_refresh=x", "--osquery_log_dir=x", "--log_numerics_as_numbers=x", "--logger_tls_max=-1",
	},
	"values": {
		"--disable_watchdog=", "--disable_watchdog=TRUE", "--disable_watchdog=Yes", "--disable_watchdog true", "--schedule_timeout= 5",
		"--schedule_timeout=5 ", "--schedule_timeout=010", "--schedule_timeout=08", "--schedule_timeout=+5", "--schedule_timeout=0b1",
		"--schedule_timeout=1_000", "--schedule_timeout=0X1F", "--schedule_timeout=0x", "--schedule_timeout=99999999999999999999",
		"--worker_threads=-0x1", "--worker_threads=-1", "--worker_threads=3000000000", "--worker_threads=0x80000000",
		"--alarm_timeout=5|--alarm_timeout=20", "--alarm_timeout=0xa", "--schedule_timeout=x|--schedule_timeout=5",
	},
	"lists": {
		"--undefok=nosuchflag|--other", "--nosuch|--undefok=nosuch,b|--b=5", "--undefok=such|--nosuch", "--undefok=no-such|--no_such",
		"--undefok=pidfile|--nopidfile", "--undefok=,", "--undefok=-a", "--undefok=a,", "--undefok=a,-b,c", "--fromenv=schedule_timeout",
		"--fromenv=alarm_timeout", "--fromenv=schedule_epoch", "--fromenv=pidfile,nosuch", "--tryfromenv=pidfile,nosuch",
		"--fromenv=tryfromenv", "--fromenv=undefok|--other", "--fromenv=schedule-timeout", "--fromenv=no-such", "--fromenv=a,,b", "--fromenv=-a",
	},
	"files": {
		"--flagfile=mistakes", "--flagfile=names", "--flagfile=blanks", "--flagfile=returns", "--flagfile=nested", "--flagfile=mistakes,names",
		"--flagfile=,", "--flagfile=mistakes,absent", "--flagfile=mistakes|--undefok=,",
	},
	"order": {"--version", "--alarm_timeout=5|--version", "--flagfile=absent|--version", "--undefok=,|--version"},
}

// How gflags reads what it is given: an unknown flag at the end keeps all from
// starting.
func TestDifferentialFlagForms(t *testing.T) {
	t.Parallel()
	for name, forms := range flagForms {
		differential(t, "flags "+name, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			writeFlagFiles(t, dir)
			s.env = flagEnv
			for _, form := range forms {
				args := append(base(dir, strings.Split(form, "|")...), "--nosuchflag=1")
				o.refused(s.launch(t, dir, args...), form)
			}
		})
	}
}

// A value that is missing at the end, with gflags' own words of the flag.
func TestDifferentialFlagWithoutValue(t *testing.T) {
	t.Parallel()
	differential(t, "flags without value", func(t *testing.T, s *subject, o *transcript) {
		dir := root(t)
		for _, last := range []string{
			"--schedule-timeout", "-schedule_timeout", "--socket", "--config-tls-refresh", "--flagfile", "--fromenv", "--tryfromenv", "--undefok", "--log_dir",
		} {
			o.refused(s.launch(t, dir, base(dir, "--nosuchflag=1", last)...), last)
		}
	})
}

func (o *transcript) refused(d *daemon, form string) {
	d.t.Helper()
	o.add("%s: %s", form, d.end())
	if out := d.tidy(d.stdout.String()); out != "" {
		o.add("stdout: %s", out)
	}
	o.add("%s", d.said())
}

// What the flags are in the end, however they were given.
func TestDifferentialFlagValues(t *testing.T) {
	t.Parallel()
	tests := map[string]map[string]string{ // argument: the flag to ask for
		"forms": {
			"--disable-watchdog": "disable_watchdog", "--nodisable_audit=true": "disable_audit", "--schedule-timeout=010": "schedule_timeout",
			"--thrift_timeout=0x10": "thrift_timeout", "-disable-events=f": "disable_events", "--schedule_epoch=+08": "schedule_epoch",
			"--fromenv=schedule_splay_percent": "schedule_splay_percent", "--tryfromenv=host_identifier,worker_threads": "worker_threads",
		},
		"aliases": {
			"--timeout=4": "extensions_timeout", "--interval=5": "extensions_interval", "--config_tls_refresh=77": "config_refresh",
			"--config-tls-accelerated-refresh=0x4E": "config_accelerated_refresh", "--log_numerics_as_numbers": "logger_numerics",
			"--logger_tls_max=9": "logger_tls_max_linesize", "--db_path=DIR/db2": "database_path", "--osquery_log_dir=DIR/": "logger_path",
			"--socket=DIR/em": "extensions_socket",
		},
	}
	for name, asked := range tests {
		differential(t, "flag values "+name, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			writeConf(t, dir, "{}")
			s.env = []string{"FLAGS_schedule_splay_percent=3", "FLAGS_worker_threads=-1"}
			args := base(dir)
			forms := slices.Sorted(maps.Keys(asked))
			for _, form := range forms {
				args = append(args, strings.ReplaceAll(form, "DIR", dir))
			}
			d := s.launch(t, dir, args...)
			d.ready()
			for _, form := range forms {
				o.add("%s\n%s", form, d.ask("SELECT value, default_value FROM osquery_flags WHERE name = '"+asked[form]+"'"))
			}
			o.add("db2: %v", d.exists("db2"))
			d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
			o.add("end: %s", d.end())
		})
	}
}

// The last of the exact words -S and -D makes a shell, which ends when it has
// nothing to read, or a daemon.
func TestDifferentialTool(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args   []string
		daemon bool
	}{
		"S": {[]string{"-S"}, false}, "double S": {[]string{"--S"}, false}, "D S": {[]string{"-D", "-S"}, false},
		"S D": {[]string{"-S", "--D"}, true}, "S true": {[]string{"--S=true"}, true}, "S refused": {[]string{"-S", "--nosuchflag"}, false},
	} {
		differential(t, "tool "+name, func(t *testing.T, s *subject, o *transcript) {
			dir := root(t)
			writeConf(t, dir, "{}")
			s.env = []string{"HOME=" + dir}
			d := s.launch(t, dir, base(dir, tt.args...)...)
			if tt.daemon {
				d.ready()
				d.terminate(d.cmd.Process.Pid, syscall.SIGTERM)
			}
			o.add("end: %s", d.end())
			o.add("stdout: %s", d.tidy(d.stdout.String()))
			o.add("stderr:\n%s", d.said())
			o.add("pidfile stays: %v", d.exists("pid"))
		})
	}
}
