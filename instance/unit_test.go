package instance

import (
	"crypto/ed25519"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/control"
)

// Every duration among the options has a bound, a default within it, and the value that
// is documented.
func TestPromise12EveryDurationIsBounded(t *testing.T) {
	o := defaults("a")
	fields := 2 // Config.Refresh and Distributed.Interval; the others of package extension are checked by internal/plugin
	for _, of := range []reflect.Type{
		reflect.TypeFor[options](), reflect.TypeFor[Timeouts](), reflect.TypeFor[Health](), reflect.TypeFor[Queries](),
		reflect.TypeFor[Diagnostics](),
	} {
		for i := range of.NumField() {
			if of.Field(i).Type == reflect.TypeFor[time.Duration]() {
				fields++
			}
		}
	}
	if n := len(o.durationRules()); n != fields {
		t.Errorf("%d durations have rules for %d", fields, n)
	}
	if errs := o.checkDurations(); len(errs) > 0 {
		t.Errorf("the defaults are out of bounds: %v", errs)
	}
	if first := o.health.first(time.Now()); first < o.health.Interval || first > o.health.Interval*11/10 {
		t.Errorf("the first check of health comes after %v", first)
	}
	// What osqueryd's own arithmetic requires: more than its alarm_timeout of 15 s to exit in, and a
	// start that waits out its wait for our extension. Container platforms kill after 30 s.
	r := &run{in: withOptions(o), o: o, stopBegan: time.Now()}
	grace := r.left(stopTerminate)
	if grace <= 15*time.Second || o.timeouts.Stop >= 28*time.Second ||
		o.timeouts.Start < 2*o.timeouts.Extensions || o.timeouts.Replace < o.timeouts.Start {
		t.Errorf("grace %v, timeouts %+v", grace, o.timeouts)
	}
}

// The parts of a stop, each as slow as it may be, take no longer than Timeouts.Stop together,
// and each has some time whatever those before it took.
func TestPromise12PartsOfAStopKeepToItsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := defaults("a")
		r := &run{in: withOptions(o), o: o, stopBegan: time.Now()}
		for p := stopTerminate; p <= stopObservers; p++ {
			d := r.left(p)
			if d < o.timeouts.Stop/25 {
				t.Errorf("part %d has %v", p, d)
			}
			<-time.After(d)
			if again := r.left(p); again > o.timeouts.Stop/100 { // a part may wait more than once
				t.Errorf("part %d has another %v", p, again)
			}
		}
		if took := time.Since(r.stopBegan); took > o.timeouts.Stop {
			t.Errorf("all parts together take %v", took)
		}
	})
}

func TestSameFlag(t *testing.T) {
	same := [][2]string{
		{"true", "true"}, {"true", "1"}, {"false", "0"}, {"3", "3.0"}, {"008", "8"}, {"", ""}, {"a,b", "a,b"}, {"yes", "true"}, {"N", "false"},
	}
	other := [][2]string{
		{"true", "false"}, {"1", "2"}, {"", "x"}, {"a,b", "a"}, {"true", ""}, {"NaN", "x"}, {"yes", "false"}, {"yes", "yesterday"},
	}
	for _, v := range same {
		if !sameFlag(v[0], v[1]) {
			t.Errorf("%q and %q differ", v[0], v[1])
		}
	}
	for _, v := range other {
		if sameFlag(v[0], v[1]) {
			t.Errorf("%q and %q are the same", v[0], v[1])
		}
	}
}

// Only a file whose name says osqueryd is one by itself.
func TestOtherNamesOfTheBinary(t *testing.T) {
	for path, want := range map[string]bool{
		"/opt/osqueryd/bin/osqueryd": false, "/opt/acme-osqueryd-5": false, "/opt/osqueryd/acme": true, "/usr/bin/osqueryi": true,
	} {
		if got := slices.Contains(defaults("a").argv(paths{}, "x", Binary{Path: path}), "--D"); got != want {
			t.Errorf("%s: told to be the daemon: %v, want %v", path, got, want)
		}
	}
}

func TestLastVariableWins(t *testing.T) {
	got := lastWins([]string{"A=1", "B=2", "A=3", "=C:=x", "=C:=y"})
	if diff := cmp.Diff([]string{"B=2", "A=3", "=C:=x", "=C:=y"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVersionOrder(t *testing.T) {
	for _, v := range [][2]string{{"5.4.9", "5.5.0"}, {"4.99.99", "5.5.0"}, {"5.9.0", "5.10.0"}} {
		if !versionLess(v[0], v[1]) || versionLess(v[1], v[0]) {
			t.Errorf("%s is not older than %s", v[0], v[1])
		}
	}
	if versionLess("5.5.0", "5.5.0") {
		t.Error("a version is older than itself")
	}
}

// Wall time that runs ahead of running time is a sleep; a corrected clock is none.
func TestSleepIsTold(t *testing.T) {
	wall, running := time.Unix(1e9, 0), time.Hour
	tick := func(w, r time.Duration) control.Clock {
		wall, running = wall.Add(w), running+r
		return func() (time.Time, time.Duration) { return wall, running }
	}
	var h health
	h.slept(tick(0, 0)())
	for _, step := range []struct{ wall, running, want time.Duration }{
		{10 * time.Second, 10 * time.Second, 0},
		{time.Hour, 10 * time.Second, time.Hour - 10*time.Second},
		{10 * time.Second, 10 * time.Second, 0},
		{-time.Hour, time.Second, -time.Hour - time.Second},
	} {
		if got := h.slept(tick(step.wall, step.running)()); got != step.want {
			t.Errorf("%v of wall time in %v of running time: slept %v, want %v", step.wall, step.running, got, step.want)
		}
	}
}

// Whatever id is let through names one directory, on every system.
func FuzzCheckID(f *testing.F) {
	for _, s := range []string{
		"vendor", "", ".", "..", "a/b", `a\b`, "con", "CON.txt", "a b", "é", "tenant-7", "-a", "a.", strings.Repeat("a", 65),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if CheckID(id) != nil {
			return
		}
		if id == "" || len(id) > MaxIDLength || strings.ContainsAny(id, "/\\:*?\"<>| \x00") || strings.Trim(id, ".-_") != id {
			t.Errorf("%q is let through", id)
		}
	})
}

// Whatever flag is let through is one flag on argv, and none of the SDK's.
func FuzzCheckFlag(f *testing.F) {
	f.Add("schedule_timeout", "60")
	f.Add("--flagfile", "x")
	f.Add("pidfile", "")
	f.Add("a=b", "c")
	f.Fuzz(func(t *testing.T, name, value string) {
		o := defaults("a")
		o.flags[name] = value
		if len(o.checkFlags()) > 0 {
			return
		}
		own := 0
		for _, arg := range o.argv(paths{}, "x", Binary{Path: "osqueryd"}) {
			if strings.HasPrefix(arg, "--"+name+"=") {
				own++
			}
		}
		if own != 1 || strings.ContainsAny(name, "-= \x00") && name[0] == '-' {
			t.Errorf("%q=%q stands %d times on argv", name, value, own)
		}
	})
}

// Instances that became ready at different moments are checked at the same ones, never
// before the interval has passed and at most a tenth of it later.
func TestHealthChecksShareTheirMoments(t *testing.T) {
	o := defaults("a")
	base := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	moments := map[time.Time]int{}
	for i := range 100 {
		now := base.Add(time.Duration(i)*7*time.Millisecond + 1)
		wait := o.health.next(now)
		if wait < o.health.Interval || wait > o.health.Interval+o.health.Interval/healthTicks {
			t.Fatalf("it waits %v", wait)
		}
		moments[now.Add(wait)]++
	}
	if len(moments) != 1 {
		t.Errorf("100 instances that became ready within 0.7 s are checked at %d moments", len(moments))
	}
	o.health.Interval = 3 // ns, too short to be divided
	if wait := o.health.next(base); wait != 3 {
		t.Errorf("it waits %v", wait)
	}
	exact := time.Minute
	o.health.Delay = exact
	if wait := o.health.first(base.Add(1)); wait != exact {
		t.Errorf("the delay that was asked for became %v", wait)
	}
}

// withOptions is an instance that has nothing but options.
func withOptions(o *options) *Instance {
	in := &Instance{o: o}
	in.live.Store(o)
	return in
}

// An update that does not compare an option would take no notice of it.
func TestEveryOptionIsComparedByUpdates(t *testing.T) {
	names := map[string]bool{}
	for _, s := range settings() {
		if names[s.name] {
			t.Errorf("%s is compared twice", s.name)
		}
		names[s.name] = true
	}
	source, err := parser.ParseFile(token.NewFileSet(), "options.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range source.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "With") {
			continue
		}
		if !names[f.Name.Name] {
			t.Errorf("%s is not compared: add it to settings", f.Name.Name)
		}
		delete(names, f.Name.Name)
	}
	if len(names) > 0 {
		t.Errorf("compared, but no options: %v", names)
	}
}

// Each field of Logs is compared, and is known to be live or not.
func TestEveryFieldOfLogsIsKnownToUpdates(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]struct {
		logs extension.Logs
		live bool
	}{
		"BatchLines": {extension.Logs{BatchLines: 7}, true}, "BatchBytes": {extension.Logs{BatchBytes: 7}, true},
		"BatchAge": {extension.Logs{BatchAge: 7}, true}, "LineLimit": {extension.Logs{LineLimit: 7}, false},
		"QueueBytes": {extension.Logs{QueueBytes: 7 << 20}, false}, "WhenFull": {extension.Logs{WhenFull: extension.RefuseNewest}, false},
		"DeadLetterBytes": {extension.Logs{DeadLetterBytes: 7}, true}, "BackfillRate": {extension.Logs{BackfillRate: 7}, true},
		"Sync": {extension.Logs{Sync: 7}, false}, "Signer": {extension.Logs{Signer: key}, true},
		"RawEvents": {extension.Logs{RawEvents: true}, false},
		"Delivery":  {extension.Logs{Delivery: extension.Delivery{MaxAge: 7}}, true},
	}
	fields := reflect.TypeFor[extension.Logs]()
	for i := range fields.NumField() {
		name := fields.Field(i).Name
		change, ok := changes[name]
		if !ok {
			t.Errorf("%s is not in this test", name)
			continue
		}
		got := plan{&options{logs: change.logs}}.Changes(plan{&options{}})
		if len(got) != 1 || got[0].Option != "WithLogs" || got[0].Restart == change.live {
			t.Errorf("%s: %+v, want WithLogs, live %v", name, got, change.live)
		}
	}
}

func TestSameValuesOfOptions(t *testing.T) {
	f := func(n int) func() int { return func() int { return n } }
	one, two := f(1), f(2)
	type funcs struct{ F func() int }
	a, b := new(int), new(int)
	for name, tt := range map[string]struct {
		a, b any
		want bool
	}{
		"equal maps":                {map[string]string{"a": "b"}, map[string]string{"a": "b"}, true},
		"other values":              {map[string]string{"a": "b"}, map[string]string{"a": "c"}, false},
		"other keys":                {map[string]string{"a": "b"}, map[string]string{"b": "b"}, false},
		"nothing and nil":           {[]string{}, []string(nil), true},
		"the order counts":          {[]string{"a", "b"}, []string{"b", "a"}, false},
		"the same closure":          {one, one, true},
		"two of the same code":      {one, two, false},
		"a func and none":           {one, (func() int)(nil), false},
		"no funcs":                  {(func() int)(nil), (func() int)(nil), true},
		"structs of funcs":          {funcs{one}, funcs{one}, true},
		"structs of others":         {funcs{one}, funcs{two}, false},
		"interfaces of such":        {[]any{funcs{one}}, []any{funcs{one}}, true},
		"pointers":                  {a, a, true},
		"pointers to equal":         {a, b, false},
		"types":                     {1, "1", false},
		"nil and not":               {nil, 1, false},
		"nil":                       {nil, nil, true},
		"timeouts":                  {Timeouts{Stop: 1}, Timeouts{Stop: 1}, true},
		"other timeouts":            {Timeouts{Stop: 1}, Timeouts{Stop: 2}, false},
		"unexported, not compared":  {[]any{struct{ f any }{funcs{one}}}, []any{struct{ f any }{funcs{one}}}, false},
		"unexported, comparable":    {[]any{struct{ n int }{1}}, []any{struct{ n int }{1}}, true},
		"slices within a nil array": {[][]int{nil}, [][]int{{}}, true},
	} {
		if got := same(tt.a, tt.b); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
