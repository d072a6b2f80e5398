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
	Run(t, func(*testing.T) Harness { return newMemory() })
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

// hooked is a memory of which some methods have been broken.
type hooked struct {
	*memory
	limits  Limits
	kept    []extension.Batch // what arrived, by a transport that does not copy
	config  func(context.Context, extension.Node) (map[string]string, error)
	publish func(context.Context, extension.Node, extension.Batch) error
	queries func(context.Context, extension.Node) (extension.QuerySet, error)
	write   func(context.Context, extension.Node, []extension.Result) error
	enroll  func(context.Context, extension.EnrollRequest) (string, error)
}

func (h *hooked) Transport() extension.Transport { return h }
func (h *hooked) Received(instance string) []extension.Batch {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept != nil {
		return h.kept
	}
	return h.memory.Received(instance)
}
func (h *hooked) Limits() Limits {
	limits := h.limits
	limits.Also = append(limits.Also, TooLarges, ExactBytes, NotJSON)
	limits.CancelWithin = 300 * time.Millisecond
	return limits
}

func (h *hooked) Config(ctx context.Context, n extension.Node) (map[string]string, error) {
	if h.config != nil {
		return h.config(ctx, n)
	}
	return h.memory.Config(ctx, n)
}

func (h *hooked) PublishLogs(ctx context.Context, n extension.Node, b extension.Batch) error {
	if h.publish != nil {
		return h.publish(ctx, n, b)
	}
	return h.memory.PublishLogs(ctx, n, b)
}

func (h *hooked) Queries(ctx context.Context, n extension.Node) (extension.QuerySet, error) {
	if h.queries != nil {
		return h.queries(ctx, n)
	}
	return h.memory.Queries(ctx, n)
}

func (h *hooked) WriteResults(ctx context.Context, n extension.Node, r []extension.Result) error {
	if h.write != nil {
		return h.write(ctx, n, r)
	}
	return h.memory.WriteResults(ctx, n, r)
}

func (h *hooked) Enroll(ctx context.Context, r extension.EnrollRequest) (string, error) {
	if h.enroll != nil {
		return h.enroll(ctx, r)
	}
	return h.memory.Enroll(ctx, r)
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
				h := &hooked{memory: newMemory()}
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
	declared := &hooked{memory: newMemory(), limits: Limits{Cannot: map[Feature]string{Logs: "they go elsewhere"}}}
	if got := watch(find("Logs/Order"), declared); !strings.Contains(got.skipped, "they go elsewhere") || len(got.failed) > 0 {
		t.Errorf("declared: skipped %q, failed %q", got.skipped, got.failed)
	}
	declared.publish = func(context.Context, extension.Node, extension.Batch) error { return extension.ErrUnsupported }
	for _, c := range cases() {
		if got := watch(c, declared); len(got.failed) > 0 {
			t.Errorf("%s: %q", c.name, got.failed)
		}
	}
	unexplained := &hooked{memory: newMemory(), limits: Limits{Cannot: map[Feature]string{Logs: " "}}}
	if got := watch(find("Queries"), unexplained); len(got.failed) == 0 {
		t.Error("a missing feature without a reason was accepted")
	}
	nameless := &hooked{memory: newMemory(), limits: Limits{Cannot: map[Feature]string{Sources: "one document"}}}
	if got := watch(find("Queries"), nameless); len(got.failed) == 0 {
		t.Error("a single source without a name was accepted")
	}
}

// TestDeclaredSizesAreKept: a transport that takes no more than it declares conforms.
func TestDeclaredSizesAreKept(t *testing.T) {
	limits := Limits{MaxLine: 4 << 10, MaxBatch: 16 << 10}
	for _, c := range cases() {
		h := &hooked{memory: newMemory(), limits: limits}
		h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
			longest := 0
			for _, line := range b.Lines {
				longest = max(longest, len(line))
			}
			if longest > limits.MaxLine || b.Bytes > limits.MaxBatch {
				t.Errorf("%s: batch %s has %d bytes and a line of %d", c.name, b.ID, b.Bytes, longest)
			}
			return h.memory.PublishLogs(ctx, n, b)
		}
		if got := watch(c, h); len(got.failed) > 0 {
			t.Errorf("%s: %q", c.name, got.failed)
		}
	}
}
