package plugin

import (
	"fmt"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/stats"
)

// served returns what osqueryd gets of a config with these options, and what was announced.
func served(t *testing.T, options string, opts ...option) (string, []stats.OptionStripped) {
	t.Helper()
	src := &source{config: map[string]string{"main": `{"options":{` + options + `}}`}}
	r := newRig(t, t.TempDir(), append(opts, configFrom(src))...)
	got, status := r.config()
	if status.Code != 0 {
		t.Fatalf("%s: %s", options, status.Message)
	}
	return got["main"], eventsOf[stats.OptionStripped](r)
}

// What the SDK pins on the command line, or leaves off unless the host wants it, is nothing
// that a config can set; osqueryd would take each of these.
func TestTrial27ConfigSetsNothingThatIsPinned(t *testing.T) {
	for _, name := range []string{
		"disable_events", "disable_audit", "logger_min_status", "logger_min_stderr", "logger_event_type",
		"extensions_default_index", "audit_allow_config", "audit_persist", "audit_of_tomorrow", "syslog_pipe_path", "enable_syslog",
		"enable_file_events", "enable_bpf_events", "enable_keyboard_events", "enable_windows_events_publisher",
		"disable_endpointsecurity", "experiment_list", "numeric_monitoring_filesystem_path", "logger_status_sync", "nodisable_events",
		"disable-events", "disable_tables", "thrift_timeout", "planner",
	} {
		got, stripped := served(t, fmt.Sprintf(`%q:"1"`, name))
		equal(t, name, got, `{"options":{}}`)
		if len(stripped) != 1 || stripped[0].Option != name || stripped[0].Reason == "" {
			t.Errorf("%s: announced as %+v", name, stripped)
		}
	}
}

// What Fleet and osctrl put into configs and what harms nothing goes through as it came.
func TestTrial27HarmlessOptionsPass(t *testing.T) {
	const harmless = `"schedule_splay_percent":10,"schedule_max_drift":60,"events_expiry":3600,"events_max":50000,` +
		`"logger_snapshot_event_type":true,"decorations_top_level":true,"verbose":false,"utc":true,"custom_team":"blue",` +
		`"table_delay":"5","a_flag_of_tomorrow":-1`
	got, stripped := served(t, harmless)
	equal(t, "config", got, `{"options":{`+harmless+`}}`)
	equal(t, "stripped", len(stripped), 0)
}

// osqueryd 5.23 reads the bits of a fraction as a whole number: events_max 0.5 becomes
// 4602678819172646912.
func TestTrial27NumbersThatOsquerydMisreads(t *testing.T) {
	for _, value := range []string{"0.5", "1e3", "-2147483649", "18446744073709551616", "1.0"} {
		got, stripped := served(t, `"events_max":`+value)
		equal(t, value, got, `{"options":{}}`)
		if len(stripped) != 1 || !strings.Contains(stripped[0].Reason, value) {
			t.Errorf("%s: announced as %+v", value, stripped)
		}
	}
	for _, value := range []string{"0", "-1", "-2147483648", "18446744073709551615", `"1.5"`, "true"} {
		got, _ := served(t, `"events_max":`+value)
		equal(t, value, got, `{"options":{"events_max":`+value+`}}`)
	}
}

// It ends osqueryd with 78 when its plugin cannot write.
func TestTrial14ConfigDoesNotSwitchNumericMonitoringOn(t *testing.T) {
	got, stripped := served(t, `"enable_numeric_monitoring":true,"numeric_monitoring_filesystem_path":"/nowhere/x"`)
	equal(t, "config", got, `{"options":{}}`)
	equal(t, "stripped", len(stripped), 2)
}
