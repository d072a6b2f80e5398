package osqueryflags

import (
	"slices"
	"strings"
	"testing"
)

// Every name stands for one flag, and every restriction has its reason.
func TestTrial27TableIsConsistent(t *testing.T) {
	seen := map[string]string{}
	names := make([]string, 0, len(All()))
	for _, f := range All() {
		names = append(names, strings.ToLower(f.Name))
		for _, name := range append([]string{f.Name}, f.Aliases...) {
			if other, ok := seen[name]; ok {
				t.Errorf("%s stands for %s and for %s", name, other, f.Name)
			}
			seen[name] = f.Name
			if strings.ContainsAny(name, "-= ") {
				t.Errorf("%q is not a flag's name", name)
			}
		}
		needsReason := f.Owner == Host || f.Owner == Nobody
		if needsReason && f.Reason == "" || f.Owner == Anyone && f.Reason != "" {
			t.Errorf("%s belongs to %v with the reason %q", f.Name, f.Owner, f.Reason)
		}
	}
	if !slices.IsSorted(names) {
		t.Error("the table is not in the order of its names")
	}
}

func TestTrial27ForConfig(t *testing.T) {
	for name, want := range map[string]bool{
		"schedule_splay_percent": true, "events_max": true, "verbose": true, "logger_numerics": true,
		"log_numerics_as_numbers": true, "a_flag_of_tomorrow": true, "custom_mine": true, "utc": true, "noutc": true,
		"disable_events": false, "disable-events": false, "nodisable_events": false, "no-disable": true,
		"db_path": false, "socket": false, "interval": false, "logger_tls_max": false, "audit_of_tomorrow": false,
		"watchdog_of_tomorrow": false, "numeric_monitoring_plugins": false, "flagfile": false, "pack_delimiter": false,
		"noextensions_socket": true, // it is no switch, so gflags has no such name
	} {
		reason, ok := ForConfig(name)
		if ok != want || ok != (reason == "") {
			t.Errorf("%s: %v, %q", name, ok, reason)
		}
	}
}
