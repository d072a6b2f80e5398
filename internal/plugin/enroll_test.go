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
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/stats"
)

// onlyEnrol fails enrolments with err, and other calls not at all.
func onlyEnrol(err error) func(string, extension.Node) error {
	return func(call string, _ extension.Node) error {
		if call == callEnroll {
			return err
		}
		return nil
	}
}

func TestEnrolsOnceHoweverManyAsk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		mem.Fail(func(call string, _ extension.Node) error {
			if call == callEnroll {
				pass(time.Second)
			}
			return nil
		})
		r := newRig(t, t.TempDir(), withTransport(mem), withLogBatch(1, 1<<20, 0))
		r.start()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { r.config() })
			wg.Go(func() { r.getQueries() })
			wg.Go(func() { r.log("string", "x") })
		}
		wg.Wait()
		pass(time.Minute)
		equal(t, "enrolments", mem.Enrolments(), 1)
		equal(t, "lines", len(mem.Logs("a", extension.QueueResults)), 10)
		equal(t, "events", len(eventsOf[stats.Enrolled](r)), 1)
	})
}

func TestNodeInvalidEnrolsAgainAndRepeats(t *testing.T) {
	mem := extension.NewMemory()
	r := newRig(t, t.TempDir(), withTransport(mem))
	mem.SetConfig("a", map[string]string{"main": goodConfig})
	r.config()
	mem.Invalidate("a")
	got, _ := r.config()
	equal(t, "config", got["main"], goodConfig)
	equal(t, "enrolments", mem.Enrolments(), 2)
	events := eventsOf[stats.Enrolled](r)
	equal(t, "events", len(events), 2)
	equal(t, "again", events[1].Again, true)
	equal(t, "failures", len(eventsOf[stats.TransportFailed](r)), 0)
}

// TestNodeInvalidFromAnyCallEnrolsAgain: each call that meets an invalid key enrols
// once and is repeated, so that nobody notices.
func TestNodeInvalidFromAnyCallEnrolsAgain(t *testing.T) {
	for name, call := range map[string]func(t *testing.T, r *rig) error{
		"config":  func(t *testing.T, r *rig) error { _, _, err := r.FetchConfig(t.Context()); return err },
		"logs":    func(t *testing.T, r *rig) error { r.logLines(3); return r.Flush(t.Context()) },
		"queries": func(_ *testing.T, r *rig) error { equalQueries(r, `{"queries":{"q1":"select 1"}}`); return nil },
		"results": func(t *testing.T, r *rig) error { r.writeResults(written); return r.Flush(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			mem := extension.NewMemory()
			r := newRig(t, t.TempDir(), withTransport(mem))
			r.config()
			mem.Ask("a", "select 1")
			mem.Invalidate("a")
			if err := call(t, r); err != nil {
				t.Error(err)
			}
			equal(t, "enrolments", mem.Enrolments(), 2)
			equal(t, "failures", len(eventsOf[stats.TransportFailed](r)), 0)
			equal(t, "lines waiting", r.Pending()["results"], 0)
			if name == "results" {
				equal(t, "results", len(mem.Results("a")), len(writtenResults()))
			}
		})
	}
}

func equalQueries(r *rig, want string) {
	r.t.Helper()
	equal(r.t, "queries", r.getQueries(), want)
}

func TestNodeKeyIsKept(t *testing.T) {
	dir := t.TempDir()
	mem := extension.NewMemory()
	r := newRig(t, dir, withTransport(mem))
	r.config()
	r.shut()
	path := filepath.Join(dir, "node_key")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		equal(t, "mode", info.Mode().Perm(), 0o600)
	}
	r = newRig(t, dir, withTransport(mem))
	if _, status := r.config(); status.Code != 0 {
		t.Fatal(status.Message)
	}
	equal(t, "enrolments", mem.Enrolments(), 1)
	mem.Invalidate("a")
	r.config()
	equal(t, "enrolments after the key was refused", mem.Enrolments(), 2)
	r.shut()
	left, _ := filepath.Glob(filepath.Join(dir, ".node_key*"))
	equal(t, "temporary files", len(left), 0)
}

// keyStore is a node key store of a host.
type keyStore struct {
	key  string
	fail error
}

func (k *keyStore) Load(context.Context) (string, error) { return k.key, k.fail }
func (k *keyStore) Save(_ context.Context, key string) error {
	k.key = key
	return k.fail
}

func TestHostsKeyStore(t *testing.T) {
	dir := t.TempDir()
	mem := extension.NewMemory()
	store := &keyStore{}
	r := newRig(t, dir, withTransport(mem), withNodeKeyStore(store))
	r.config()
	r.shut()
	if store.key == "" {
		t.Fatal("the key was not saved")
	}
	if _, err := os.Stat(filepath.Join(dir, "node_key")); err == nil {
		t.Error("the key is in a file too")
	}
	store.fail = errors.New("locked")
	r = newRig(t, dir, withTransport(mem), withNodeKeyStore(store))
	if _, status := r.config(); status.Code != 0 {
		t.Errorf("a store that fails stopped everything: %s", status.Message)
	}
}

func TestFailedEnrolmentBacksOffAndHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		mem.Fail(onlyEnrol(errDown))
		r := newRig(t, t.TempDir(), withTransport(mem), withBackoff(10*time.Second, time.Hour))
		start := time.Now()
		for range 50 {
			if _, status := r.config(); status.Code != 1 || !strings.Contains(status.Message, "down") {
				t.Fatal(status)
			}
		}
		equal(t, "waited", time.Since(start), 0)
		failed := 0
		for _, e := range eventsOf[stats.TransportFailed](r) {
			if e.Call == callEnroll {
				failed++
				if e.Retry < 7*time.Second || e.Retry > 13*time.Second {
					t.Errorf("the wait is %v", e.Retry)
				}
			}
		}
		equal(t, "enrolments tried", failed, 1)
		mem.Fail(onlyEnrol(extension.RetryAfter(time.Hour, errDown)))
		pass(14 * time.Second)
		r.config()
		mem.Fail(nil)
		pass(59 * time.Minute)
		if _, status := r.config(); status.Code != 1 {
			t.Error("enrolled before the server wanted it")
		}
		pass(2 * time.Minute)
		if _, status := r.config(); status.Code != 0 {
			t.Error(status.Message)
		}
	})
}

func TestServerThatRefusesEveryKeyIsNotStormed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		mem := extension.NewMemory()
		mem.Fail(func(call string, _ extension.Node) error {
			if call != callEnroll {
				return fmt.Errorf("call %s: %w", call, extension.ErrNodeInvalid)
			}
			return nil
		})
		r := newRig(t, t.TempDir(), withTransport(mem), withLogBatch(1, 1<<20, 0), withBackoff(time.Second, 5*time.Minute))
		r.start()
		r.logLines(10)
		for range 360 {
			pass(10 * time.Second)
			r.config()
			r.getQueries()
		}
		if n := mem.Enrolments(); n > 60 {
			t.Errorf("%d enrolments in an hour", n)
		}
	})
}

func TestHangingEnrolment(t *testing.T) {
	bubble(t, func(t *testing.T) {
		hang := make(chan struct{})
		mem := extension.NewMemory()
		mem.Fail(func(call string, _ extension.Node) error {
			if call == callEnroll {
				<-hang
			}
			return nil
		})
		r := newRig(t, t.TempDir(), withTransport(mem))
		start := time.Now()
		r.config()
		equal(t, "osqueryd waited", time.Since(start), 10*time.Second)
		close(hang)
	})
}

func TestPlatformTypes(t *testing.T) {
	for goos, want := range map[string]int{"linux": 9, "darwin": 21, "windows": 2} {
		equal(t, goos, platformType(goos), want)
	}
}

func TestEnrollRequest(t *testing.T) {
	var got extension.EnrollRequest
	tr := enrolling{enroll: func(req extension.EnrollRequest) (string, error) { got = req; return "k", nil }}
	details := map[string]map[string]string{"osquery_info": {"version": "5.23.0"}}
	r := newRig(t, t.TempDir(), withTransport(tr),
		withHostDetails(func(context.Context) map[string]map[string]string { return details }))
	r.config()
	equal(t, "instance", got.Node.Instance, "a")
	equal(t, "details", got.HostDetails["osquery_info"]["version"], "5.23.0")
	equal(t, "platform", got.PlatformType, platformType(runtime.GOOS))
}

// enrolling is a transport that only enrols.
type enrolling struct {
	extension.Funcs
	enroll func(extension.EnrollRequest) (string, error)
}

func (e enrolling) Enroll(_ context.Context, req extension.EnrollRequest) (string, error) {
	return e.enroll(req)
}

// slowEnroller takes its time, unless its context ends.
type slowEnroller struct {
	extension.Funcs
	takes time.Duration
}

func (e *slowEnroller) Enroll(ctx context.Context, _ extension.EnrollRequest) (string, error) {
	select {
	case <-time.After(e.takes):
		return "k", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// The end of a run is no failure of the server: it is not told of, and the next run
// neither waits nor is refused because of it.
func TestEndOfARunIsNoFailureOfTheServer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		src := &source{config: map[string]string{"main": goodConfig}}
		tr := &slowEnroller{Funcs: extension.Funcs{ConfigFunc: src.get}, takes: 5 * time.Second}
		var weighs time.Duration
		policy := func(ctx context.Context, _ extension.Node, c map[string]string) (map[string]string, error) {
			select {
			case <-time.After(weighs):
				return c, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		r := newRig(t, t.TempDir(), withTransport(tr), withConfigPolicy(policy))
		interrupt := func() {
			stop := r.start()
			go r.config()
			pass(time.Second)
			if err := stop(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		interrupt() // while it enrols
		tr.takes = 0
		src.delay = 5 * time.Second
		interrupt() // while it fetches
		src.delay, weighs = 0, 5*time.Second
		interrupt() // while the policy looks at it
		weighs = 0
		got, status := r.config()
		equal(t, "status", status.Message, "OK")
		equal(t, "config", got["main"], goodConfig)
		if failed := eventsOf[stats.TransportFailed](r); len(failed) > 0 {
			t.Errorf("failures: %v", failed)
		}
		equal(t, "refusals", len(eventsOf[stats.ConfigRefused](r)), 0)
	})
}

// A store that could not be read is asked again before the server is asked for another key.
func TestKeyStoreIsAskedAgainAfterAFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := &keyStore{key: "kept", fail: errors.New("locked")}
		asked := 0
		tr := enrolling{enroll: func(extension.EnrollRequest) (string, error) { asked++; return "", errDown }}
		r := newRig(t, t.TempDir(), withTransport(tr), withNodeKeyStore(store))
		_, status := r.config()
		equal(t, "status", status.Code, 1)
		store.fail = nil
		pass(time.Hour)
		if _, status = r.config(); status.Code != 0 {
			t.Error(status.Message)
		}
		equal(t, "enrolments tried", asked, 1)
	})
}

// What a server says of an enrolment is no verdict on the logs that wait for it.
func TestRefusedEnrolmentCostsNoLogs(t *testing.T) {
	for name, verdict := range map[string]error{
		"permanent": extension.ErrPermanent, "too large": extension.ErrTooLarge,
	} {
		t.Run(name, func(t *testing.T) {
			s := &sink{}
			r := newRig(t, t.TempDir(), withTransport(enrolling{
				Funcs:  extension.Funcs{LogsFunc: s.publish},
				enroll: func(extension.EnrollRequest) (string, error) { return "", fmt.Errorf("no such secret: %w", verdict) },
			}))
			r.logLines(3)
			if err := r.Flush(t.Context()); err == nil {
				t.Error("delivered without a node key")
			}
			equal(t, "lines that wait", r.Pending()[string(extension.QueueResults)], 3)
			equal(t, "lines given up", len(eventsOf[stats.LogsDropped](r)), 0)
		})
	}
}

// A transport that says that there is no enrolment gets its calls without a key.
func TestNoEnrolmentNeedsNoKey(t *testing.T) {
	s, asked := &sink{}, 0
	r := newRig(t, t.TempDir(), withTransport(enrolling{
		Funcs: extension.Funcs{LogsFunc: s.publish},
		enroll: func(extension.EnrollRequest) (string, error) {
			asked++
			return "", fmt.Errorf("not here: %w", extension.ErrUnsupported)
		},
	}))
	for range 2 {
		r.logLines(3)
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "lines", len(s.lines()), 6)
	equal(t, "enrolments asked for", asked, 1)
	equal(t, "failures", len(eventsOf[stats.TransportFailed](r))+len(eventsOf[stats.Enrolled](r)), 0)
}
