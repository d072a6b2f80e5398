package stats

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
)

// at is the head of an event of instance "a", s seconds in.
func at(s int, run string) Head {
	return Head{Time: time.Date(2030, 1, 1, 0, 0, s, 0, time.UTC), Instance: "a", Run: run}
}

// allEvents is one of every type, with no field of a type of its own empty.
func allEvents(h Head) []Event {
	err := errors.New("boom")
	return []Event{
		InstanceAdded{h}, InstanceUpdated{h}, InstanceRemoved{h},
		InstanceParked{h, CauseBinaryMissing, time.Minute, 5, time.Minute, err},
		InstanceResumed{h, ResumedByTime}, RestartScheduled{h, CauseExit, time.Second, 2},
		RunStarting{h, "/bin/osqueryd", "5.9.1"}, ProcessStarted{h, 7},
		ExtensionRegistered{h, 1, 2, true}, RunReady{h, 7, time.Second, "5.9.1", "i"},
		WorkerReplaced{h, "memory", time.Second}, WorkerLost{h},
		WatchdogKilled{h, "memory", 2, 1, "m"}, RegistrationLost{h, err},
		RegistrationRestored{h, time.Second}, TableParked{h, "t", err},
		HealthFailed{h, err, 3}, HealthRecovered{h}, RunStopping{h},
		RunEnded{h, PhaseServe, CauseExit, 7, 1, "KILL", time.Hour, err, []string{"x"}, "hint"},
		ConfigServed{h, 1, 2, false}, ConfigRefused{h, "s", err}, OptionStripped{h, "s", "o", "r"}, ConfigPushed{h},
		ConfigPartIgnored{h, "s", "p", "r"}, ConfigSetAside{h, "s", 1, 2},
		LogsDelivered{h, "b", "q", 1, 2}, LogsDropped{h, "q", 1, 2, "full"},
		QueueDamaged{h, "q", 1, 2, true}, QueueLeft{h, "q", "d", err},
		TransportFailed{h, "logs", err, time.Second}, Enrolled{h, true},
		QueryDenylisted{h, "q", true}, DatabaseReplaced{h, "b"}, DiscoveryFailed{h, "q", err}, FlagIneffective{h, "f", "1", "2"},
		RateAlarm{h, "restarts", 3, time.Minute}, LeftoverCleaned{h, []int{7}, time.Second},
		Suspended{h, time.Hour}, PanicCaught{h, "observer", "v", "s"},
	}
}

func TestEveryEventIsInTheList(t *testing.T) {
	types := declared(t, "events.go", func(n ast.Node) string {
		if s, ok := n.(*ast.TypeSpec); ok {
			if _, is := s.Type.(*ast.StructType); is {
				return s.Name.Name
			}
		}
		return ""
	})
	kinds := map[string]bool{}
	for _, e := range allEvents(Head{}) {
		name := reflect.TypeOf(e).Name()
		delete(types, name)
		if k := e.Kind(); kinds[k] || k != strings.ReplaceAll(fieldKey(name), "_", " ") {
			t.Errorf("%T: kind %q is not the words of its name, or is used twice", e, k)
		}
		kinds[e.Kind()] = true
	}
	for name := range types {
		t.Errorf("%s is missing from allEvents", name)
	}
}

// declared returns the names of the constants or types of a file for which pick is true.
func declared(t *testing.T, file string, pick func(ast.Node) string) map[string]bool {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if name := pick(n); name != "" {
			names[name] = true
		}
		return true
	})
	return names
}

func TestEveryCauseHasItsHint(t *testing.T) {
	values := declared(t, "cause.go", func(n ast.Node) string {
		if s, ok := n.(*ast.ValueSpec); ok {
			if typ, is := s.Type.(*ast.Ident); is && typ.Name == "Cause" {
				return strings.Trim(s.Values[0].(*ast.BasicLit).Value, `"`)
			}
		}
		return ""
	})
	if len(values) < 20 {
		t.Fatalf("only %d causes found", len(values))
	}
	for _, h := range hints {
		c := h.cause
		if !values[string(c)] {
			t.Errorf("cause %q is listed twice, or is no constant", c)
		}
		delete(values, string(c))
		if (c.Hint() == "") != (c == CauseRequested) {
			t.Errorf("hint of %q: %q", c, c.Hint())
		}
	}
	for c := range values {
		t.Errorf("cause %q has no line in hints", c)
	}
	if h := Cause("new").Hint(); h != "" {
		t.Errorf("hint of no cause: %q", h)
	}
}

func TestStatsDependsOnTheStandardLibraryAlone(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f",
		"{{if not .Standard}}{{.ImportPath}}{{end}}", ".")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	const self = "github.com/osqvisor/osqvisor/stats"
	if got := strings.TrimSpace(string(out)); got != self {
		t.Errorf("packages outside the standard library:\n%s\nwant only %s", got, self)
	}
}

func TestMultiGivesEveryEventToEveryObserverInOrder(t *testing.T) {
	var got []string
	tell := func(name string) Observer {
		return ObserverFunc(func(_ context.Context, e Event) { got = append(got, name+" "+e.Kind()) })
	}
	m := Multi(tell("a"), nil, ObserverFunc(nil), tell("b"))
	m.Observe(t.Context(), RunStopping{})
	m.Observe(t.Context(), RunEnded{})
	want := []string{"a run stopping", "b run stopping", "a run ended", "b run ended"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	Multi().Observe(t.Context(), RunEnded{})
}

func TestMultiTellsTheRestInSpiteOfAPanic(t *testing.T) {
	told := false
	m := Multi(
		ObserverFunc(func(context.Context, Event) { panic("no") }),
		ObserverFunc(func(context.Context, Event) { told = true }),
	)
	defer func() {
		if v := recover(); v != "no" || !told {
			t.Errorf("panic %v, the second was told: %v", v, told)
		}
	}()
	m.Observe(t.Context(), RunEnded{})
}
