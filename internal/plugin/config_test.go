package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// source is a config source that can be changed.
type source struct {
	mu     sync.Mutex
	config map[string]string
	err    error
	delay  time.Duration
	calls  int
}

func (s *source) get(ctx context.Context, _ extension.Node) (map[string]string, error) {
	s.mu.Lock()
	s.calls++
	config, err, delay := s.config, s.err, s.delay
	s.mu.Unlock()
	select {
	case <-time.After(delay):
		return config, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// change sets what the source gives from now on, when others may be asking it.
func (s *source) change(config map[string]string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.config, s.err = config, err
}

func (s *source) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func configFrom(s *source) option { return withTransport(extension.Funcs{ConfigFunc: s.get}) }

const (
	goodConfig  = `{"schedule":{"q":{"query":"select 1","interval":60}}}`
	otherConfig = `{"schedule":{"q":{"query":"select 2","interval":"60"}}}`
)

func TestConfigIsServedAsItCame(t *testing.T) {
	src := &source{config: map[string]string{"main": goodConfig}}
	r := newRig(t, t.TempDir(), configFrom(src))
	for range 3 {
		got, status := r.config()
		equal(t, "status", status.Code, 0)
		equal(t, "config", got["main"], goodConfig)
	}
	served := eventsOf[stats.ConfigServed](r)
	equal(t, "events for one config", len(served), 1)
	equal(t, "bytes", served[0].Bytes, len(goodConfig))
	src.config = map[string]string{"main": otherConfig}
	r.config()
	equal(t, "events for two configs", len(eventsOf[stats.ConfigServed](r)), 2)
}

func TestInvalidConfigNeverReachesOsqueryd(t *testing.T) {
	dir := t.TempDir()
	src := &source{config: map[string]string{"main": goodConfig}}
	r := newRig(t, dir, configFrom(src))
	r.config()
	src.config = map[string]string{"main": `{"schedule":{"q":{"interval":60}}`}
	_, status := r.config()
	equal(t, "status when osqueryd has the last good one", status.Code, 1)
	r.Registry() // a new worker has nothing
	got, status := r.config()
	equal(t, "status", status.Code, 0)
	equal(t, "config", got["main"], goodConfig)
	refused := eventsOf[stats.ConfigRefused](r)
	equal(t, "refusals", len(refused), 2)
	equal(t, "source", refused[0].Source, "main")
	if !strings.Contains(refused[0].Err.Error(), "the document ends too early") {
		t.Errorf("it says %v", refused[0].Err)
	}
	_, _, err := r.FetchConfig(t.Context())
	var bad *extension.ConfigError
	if !errors.As(err, &bad) {
		t.Errorf("FetchConfig says %v", err)
	}
}

func TestSourceThatDisappearsIsSentEmpty(t *testing.T) {
	src := &source{config: map[string]string{"one": goodConfig, "two": goodConfig}}
	r := newRig(t, t.TempDir(), configFrom(src))
	r.config()
	src.config = map[string]string{"one": goodConfig}
	got, _ := r.config()
	equal(t, "the source that is gone", got["two"], "{}")
	equal(t, "the other", got["one"], goodConfig)
	src.config = nil
	got, _ = r.config()
	equal(t, "the last source", got["one"], "{}")
}

func TestLastGoodConfigSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, configFrom(&source{config: map[string]string{"main": goodConfig}}), withConfigProbation(0))
	r.config()
	r.shut()
	path := filepath.Join(dir, "config.json")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		equal(t, "mode", info.Mode().Perm(), 0o600)
	}
	r = newRig(t, dir, configFrom(&source{err: errDown}))
	got, status := r.config()
	equal(t, "status", status.Code, 0)
	equal(t, "config", got["main"], goodConfig)
	equal(t, "stale", eventsOf[stats.ConfigServed](r)[0].Stale, true)
	r.shut()

	refuse := func(context.Context, extension.Node, map[string]string) (map[string]string, error) {
		return nil, errors.New("not this one")
	}
	r = newRig(t, dir, configFrom(&source{err: errDown}), withConfigPolicy(refuse))
	if _, status = r.config(); status.Code != 1 {
		t.Error("the last good config went past the policy")
	}
	r.shut()

	if err := os.WriteFile(path, []byte(`{"sour`), 0o600); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, dir, configFrom(&source{err: errDown}))
	if _, status = r.config(); status.Code != 1 || !strings.Contains(status.Message, "the server is down") {
		t.Errorf("without any config osqueryd is told %v", status)
	}
}

func TestSlowSourceDoesNotHoldUpOsqueryd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{config: map[string]string{"main": goodConfig}}
		late := make(chan map[string]string, 10)
		r := newRig(t, t.TempDir(), configFrom(src), withLateConfig(func(c map[string]string) { late <- c }))
		r.start()
		r.config()
		r.Registry()
		src.config, src.delay = map[string]string{"main": otherConfig}, 30*time.Second
		start := time.Now()
		got, _ := r.config()
		equal(t, "wait", time.Since(start), 10*time.Second)
		equal(t, "config", got["main"], goodConfig)
		pass(time.Minute)
		synctest.Wait()
		equal(t, "late configs", len(late), 1)
		config := <-late
		equal(t, "late config", config["main"], otherConfig)
		equal(t, "fetches", src.calls, 2)
		r.ConfigDelivered(config)
		if _, changed, err := r.FetchConfig(t.Context()); changed || err != nil {
			t.Errorf("after the delivery: changed %v, %v", changed, err)
		}
	})
}

func TestFailedSourceIsAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{config: map[string]string{"main": goodConfig}}
		late := make(chan map[string]string, 10)
		r := newRig(t, t.TempDir(), configFrom(src), withLateConfig(func(c map[string]string) { late <- c }))
		r.start()
		r.config()
		r.Registry()
		src.change(nil, errDown)
		r.config()
		pass(time.Minute)
		synctest.Wait()
		if src.asked() < 4 {
			t.Errorf("a source that failed was asked %d times", src.asked())
		}
		src.change(map[string]string{"main": otherConfig}, nil)
		pass(10 * time.Minute)
		synctest.Wait()
		equal(t, "late configs", len(late), 1)
		calls := src.asked()
		pass(time.Hour)
		equal(t, "calls after it worked", src.asked(), calls)
	})
}

func TestHangingSourceIsNotCalledTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		var calls atomic.Int32
		type node = extension.Node
		r := newRig(t, t.TempDir(), withTransport(extension.Funcs{ConfigFunc: func(context.Context, node) (map[string]string, error) {
			calls.Add(1)
			<-hang
			return nil, nil
		}}))
		for range 20 {
			r.config()
		}
		equal(t, "calls", calls.Load(), 1)
		close(hang)
		synctest.Wait()
	})
}

func TestPolicyChangesAndRefuses(t *testing.T) {
	src := &source{config: map[string]string{"main": goodConfig}}
	var answer map[string]string
	var refusal error
	r := newRig(t, t.TempDir(), configFrom(src),
		withConfigPolicy(func(_ context.Context, n extension.Node, _ map[string]string) (map[string]string, error) {
			equal(t, "node", n.Instance, "a")
			if refusal != nil {
				panic(refusal)
			}
			return answer, nil
		}))
	answer = map[string]string{"main": otherConfig}
	got, _ := r.config()
	equal(t, "config", got["main"], otherConfig)
	answer = map[string]string{"main": "rubbish"}
	if _, status := r.config(); status.Code != 1 {
		t.Error("a policy's rubbish was served")
	}
	refusal = errors.New("boom")
	if _, status := r.config(); status.Code != 1 {
		t.Error("a policy that panics let a config through")
	}
	equal(t, "panics", len(eventsOf[stats.PanicCaught](r)), 1)
}

func TestOwnedOptionsAreStripped(t *testing.T) {
	text := `{"options":{"db_path":"/x","verbose":true,"disable-distributed":false,"mine":1,"logger_tls_endpoint":"/y"},
		"packs":{"p":{"options":{"pack_delimiter":":"},"queries":{}}},"schedule":{}}`
	src := &source{config: map[string]string{"main": text}}
	r := newRig(t, t.TempDir(), configFrom(src), withOwnedOptions("mine"))
	got, _ := r.config()
	want := `{"options":{"verbose":true},"packs":{"p":{"options":{},"queries":{}}},"schedule":{}}`
	equal(t, "config", got["main"], want)
	r.config()
	var names []string
	for _, e := range eventsOf[stats.OptionStripped](r) {
		names = append(names, e.Option)
	}
	sameLines(t, names, []string{"db_path", "disable-distributed", "mine", "logger_tls_endpoint", "pack_delimiter"})
}

// packed is a transport that knows packs.
type packed struct {
	extension.Funcs
	packs map[string]string
}

func (p packed) Pack(_ context.Context, _ extension.Node, name, value string) (string, error) {
	if text, ok := p.packs[name+"="+value]; ok {
		return text, nil
	}
	return "", fmt.Errorf("no pack %s", name)
}

func TestPacksAreResolved(t *testing.T) {
	src := &source{config: map[string]string{"main": `{"packs":{"a":"va","*":"all","c":{"queries":{}}}}`}}
	tr := packed{Funcs: extension.Funcs{ConfigFunc: src.get}, packs: map[string]string{
		"a=va":  `{"queries":{"x":{"query":"select 1","interval":1}},"options":{"socket":"/s"}}`,
		"*=all": `{"m":{"queries":{}},"n":{"queries":{}}}`,
	}}
	r := newRig(t, t.TempDir(), withTransport(tr))
	got, _ := r.config()
	equal(t, "config", got["main"], `{"packs":{"a":{"queries":{"x":{"query":"select 1","interval":1}},"options":{}},`+
		`"m":{"queries":{}},"n":{"queries":{}},"c":{"queries":{}}}}`)
	tr.packs["deep=v"] = `{"x":` + strings.Repeat("[", 30) + "1" + strings.Repeat("]", 30) + "}"
	tr.packs["big=v"] = `{"x":"` + strings.Repeat("x", 1<<20-10) + `"}`
	tr.packs["shape=v"] = `{"events":[]}`
	for _, packs := range []string{`{"zz":"?"}`, `{"deep":"v"}`, `{"big":"v"}`, `{"shape":"v"}`} {
		src.config = map[string]string{"main": `{"packs":` + packs + `}`}
		if _, status := r.config(); status.Code != 1 {
			t.Errorf("a config with the packs %s was served", packs)
		}
	}
	resp := r.Call(t.Context(), "config", "osqvisor", map[string]string{"action": "genPack", "name": "p", "value": "v"})
	equal(t, "status of genPack", resp.Status.Code, 0)
	if text, ok := resp.Response[0]["p"]; text != "" || !ok {
		t.Errorf("genPack gave %v", resp.Response)
	}
}

// osqueryd takes the members of an inline pack called "*" for packs of their own.
func TestOwnedOptionsInAMultiPackAreStripped(t *testing.T) {
	text := `{"packs":{"*":{"p":{"options":{"db_path":"/x","verbose":true},"queries":{}},"options":{"options":{"socket":"/s"}}}}}`
	src := &source{config: map[string]string{"main": text}}
	r := newRig(t, t.TempDir(), configFrom(src))
	got, _ := r.config()
	want := `{"packs":{"*":{"p":{"options":{"verbose":true},"queries":{}},"options":{"options":{}}}}}`
	equal(t, "config", got["main"], want)
	equal(t, "events", len(eventsOf[stats.OptionStripped](r)), 2)
}

// The host may name an option as it would on the command line, and its aliases go with it.
func TestHostsOwnedOptionsInEverySpelling(t *testing.T) {
	src := &source{config: map[string]string{"main": `{"options":{"enable_file_events":true,"log_numerics_as_numbers":true}}`}}
	r := newRig(t, t.TempDir(), configFrom(src), withOwnedOptions("enable-file-events", "logger_numerics"))
	got, _ := r.config()
	equal(t, "config", got["main"], `{"options":{}}`)
}

// A source that was slow, and failed in the end, is asked again although nothing else happens.
func TestSlowSourceThatFailsIsAskedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{config: map[string]string{"main": goodConfig}}
		late := make(chan map[string]string, 10)
		r := newRig(t, t.TempDir(), configFrom(src), withLateConfig(func(c map[string]string) { late <- c }))
		r.start()
		r.config()
		r.Registry()
		src.mu.Lock()
		src.delay = 30 * time.Second
		src.mu.Unlock()
		src.change(nil, errDown)
		r.config()
		src.change(map[string]string{"main": otherConfig}, nil)
		pass(2 * time.Minute)
		synctest.Wait()
		equal(t, "late configs", len(late), 1)
	})
}

// A config that could not be written to disk is written at the next fetch, although it is the same.
func TestConfigThatWasNotKeptIsKeptLater(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, dir, configFrom(&source{config: map[string]string{"main": goodConfig}}), withConfigProbation(0))
	r.config()
	r.tasks.Wait(t.Context())
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	r.config()
	r.shut()
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// The policy is not given its own work again when the last good config comes from the disk.
func TestPolicyIsAppliedOnceToTheLastGoodConfig(t *testing.T) {
	dir := t.TempDir()
	rename := withConfigPolicy(func(_ context.Context, _ extension.Node, c map[string]string) (map[string]string, error) {
		for name, text := range c {
			c[name] = strings.ReplaceAll(text, `{"q":`, `{"q":{"query":"select 0","interval":9},"own_q":`)
		}
		return c, nil
	})
	r := newRig(t, dir, configFrom(&source{config: map[string]string{"main": goodConfig}}), rename, withConfigProbation(0))
	want, _ := r.config()
	r.shut()
	r = newRig(t, dir, configFrom(&source{err: errDown}), rename)
	got, status := r.config()
	equal(t, "status", status.Message, "OK")
	equal(t, "config", got["main"], want["main"])
}

// A policy that failed for the moment does not cost the last good config for good.
func TestLastGoodConfigIsLookedAtAgain(t *testing.T) {
	dir := t.TempDir()
	r := newRig(t, dir, configFrom(&source{config: map[string]string{"main": goodConfig}}), withConfigProbation(0))
	r.config()
	r.shut()
	down := true
	r = newRig(t, dir, configFrom(&source{err: errDown}),
		withConfigPolicy(func(_ context.Context, _ extension.Node, c map[string]string) (map[string]string, error) {
			if down {
				return nil, errDown
			}
			return c, nil
		}))
	_, status := r.config()
	equal(t, "status while the policy fails", status.Code, 1)
	down = false
	got, _ := r.config()
	equal(t, "config", got["main"], goodConfig)
}

// One bad query costs neither its source nor the others; the host is told of it once.
func TestTrial29OneBadQueryCostsNobodyElse(t *testing.T) {
	bad := `{"schedule":{"q":{"query":"select 1","interval":0},"ok":{"query":"select 2","interval":60}}}`
	src := &source{config: map[string]string{"bad": bad, "main": goodConfig}}
	r := newRig(t, t.TempDir(), configFrom(src))
	for range 2 {
		got, status := r.config()
		equal(t, "status", status.Message, "OK")
		equal(t, "the source with the bad query", got["bad"], bad)
		equal(t, "the other", got["main"], goodConfig)
	}
	ignored := eventsOf[stats.ConfigPartIgnored](r)
	if len(ignored) != 1 || ignored[0].Source != "bad" || ignored[0].Path != "schedule.q.interval" {
		t.Errorf("announced: %+v", ignored)
	}
}

// Packs that the transport resolves may bring what is there already: the first counts.
func TestTrial29PacksOfOneName(t *testing.T) {
	src := &source{config: map[string]string{"main": `{"packs":{"*":"all","m":{"queries":{}}}}`}}
	r := newRig(t, t.TempDir(), withTransport(packed{Funcs: extension.Funcs{ConfigFunc: src.get}, packs: map[string]string{
		"*=all": `{"m":{"shard":1,"shard":2},"n":{}}`,
	}}))
	got, status := r.config()
	equal(t, "status", status.Message, "OK")
	equal(t, "config", got["main"], `{"packs":{"m":{"shard":1},"n":{}}}`)
	equal(t, "parts announced", len(eventsOf[stats.ConfigPartIgnored](r)), 2)
}

// What is written anew is never longer than what came: U+2028 took twice its bytes.
func TestTrial11RewrittenConfigDoesNotOutgrowTheLimit(t *testing.T) {
	const limit = 4096
	begin, end := `{"options":{"socket":"x"},"schedule":{"`, `":{"query":"select 1","interval":60}}}`
	text := begin + strings.Repeat("\u2028", (limit-2-len(begin)-len(end))/3) + end
	src := &source{config: map[string]string{"main": text}}
	r := newRig(t, t.TempDir(), configFrom(src), withConfigLimit(limit))
	got, status := r.config()
	equal(t, "status", status.Message, "OK")
	if strings.Contains(got["main"], "socket") || len(got["main"]) > limit {
		t.Errorf("osqueryd is handed %d bytes: %.60q", len(got["main"]), got["main"])
	}
}
