package transporttest

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

func TestMemoryConforms(t *testing.T) {
	Run(t, func(*testing.T) Harness { return NewMemory() })
}

// recorder is a T whose failures are what a test looks for.
type recorder struct {
	mu      sync.Mutex
	failed  []string
	skipped string
}

func (r *recorder) Helper()             {}
func (r *recorder) Logf(string, ...any) {}
func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func watch(c testCase, h Harness) *recorder {
	r := &recorder{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.runOn(r, h)
	}()
	<-done
	return r
}

// hooked is a Memory of which some methods have been broken.
type hooked struct {
	*Memory
	limits  Limits
	config  func(context.Context, extension.Node) (map[string]string, error)
	publish func(context.Context, extension.Node, extension.Batch) error
	queries func(context.Context, extension.Node) (extension.QuerySet, error)
	write   func(context.Context, extension.Node, []extension.Result) error
	enroll  func(context.Context, extension.EnrollRequest) (string, error)
}

func (h *hooked) Transport() extension.Transport { return h }
func (h *hooked) Limits() Limits {
	limits := h.limits
	limits.CancelWithin = 300 * time.Millisecond
	return limits
}

func (h *hooked) Config(ctx context.Context, n extension.Node) (map[string]string, error) {
	if h.config != nil {
		return h.config(ctx, n)
	}
	return h.Memory.Config(ctx, n)
}

func (h *hooked) PublishLogs(ctx context.Context, n extension.Node, b extension.Batch) error {
	if h.publish != nil {
		return h.publish(ctx, n, b)
	}
	return h.Memory.PublishLogs(ctx, n, b)
}

func (h *hooked) Queries(ctx context.Context, n extension.Node) (extension.QuerySet, error) {
	if h.queries != nil {
		return h.queries(ctx, n)
	}
	return h.Memory.Queries(ctx, n)
}

func (h *hooked) WriteResults(ctx context.Context, n extension.Node, r []extension.Result) error {
	if h.write != nil {
		return h.write(ctx, n, r)
	}
	return h.Memory.WriteResults(ctx, n, r)
}

func (h *hooked) Enroll(ctx context.Context, r extension.EnrollRequest) (string, error) {
	if h.enroll != nil {
		return h.enroll(ctx, r)
	}
	return h.Memory.Enroll(ctx, r)
}

// TestEveryCaseCanFail runs each case against transports that are broken in the
// way it is for; a case that none of them fails tests nothing.
func TestEveryCaseCanFail(t *testing.T) {
	all := breakages()
	for _, c := range cases() {
		if len(all[c.name]) == 0 {
			t.Errorf("%s: no broken transport shows that it can fail", c.name)
		}
		for _, b := range all[c.name] {
			t.Run(c.name+"/"+strings.ReplaceAll(b.name, " ", "_"), func(t *testing.T) {
				if c.name != "Cancel/Goroutines" {
					t.Parallel() // that one counts everybody's goroutines
				}
				h := &hooked{Memory: NewMemory()}
				b.do(t, h)
				if got := watch(c, h); len(got.failed) == 0 {
					t.Errorf("not noticed (skipped: %q)", got.skipped)
				} else {
					t.Log(got.failed[0])
				}
			})
		}
	}
}

func TestLimits(t *testing.T) {
	find := func(name string) testCase {
		for _, c := range cases() {
			if c.name == name {
				return c
			}
		}
		t.Fatalf("no case %q", name)
		return testCase{}
	}
	declared := &hooked{Memory: NewMemory(), limits: Limits{Cannot: map[Feature]string{Logs: "they go elsewhere"}}}
	if got := watch(find("Logs/Order"), declared); !strings.Contains(got.skipped, "they go elsewhere") || len(got.failed) > 0 {
		t.Errorf("declared: skipped %q, failed %q", got.skipped, got.failed)
	}
	declared.publish = func(context.Context, extension.Node, extension.Batch) error { return extension.ErrUnsupported }
	for _, c := range cases() {
		if got := watch(c, declared); len(got.failed) > 0 {
			t.Errorf("%s: %q", c.name, got.failed)
		}
	}
	unexplained := &hooked{Memory: NewMemory(), limits: Limits{Cannot: map[Feature]string{Logs: " "}}}
	if got := watch(find("Queries"), unexplained); len(got.failed) == 0 {
		t.Error("a missing feature without a reason was accepted")
	}
	nameless := &hooked{Memory: NewMemory(), limits: Limits{Cannot: map[Feature]string{Sources: "one document"}}}
	if got := watch(find("Queries"), nameless); len(got.failed) == 0 {
		t.Error("a single source without a name was accepted")
	}
}
