package remoteapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/plugin"
)

// silent is a server that does not answer.
type silent struct{}

func (silent) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	return nil, req.Context().Err()
}

// TestBound: a call ends after Limits.Timeout, else when its caller's context ends. The
// extension allows a batch more and more time on a slow link, and must not be cut off.
func TestBound(t *testing.T) {
	for _, c := range []struct {
		what            string
		option, caller  time.Duration // 0: none
		want            time.Duration
		callersDeadline bool
	}{
		{"caller", 0, 8 * time.Minute, 8 * time.Minute, true},
		{"caller, soon", 0, time.Second, time.Second, true},
		{"nobody", 0, 0, time.Minute, false},
		{"option", 3 * time.Minute, 0, 3 * time.Minute, false},
		{"option before caller", 2 * time.Second, time.Minute, 2 * time.Second, false},
		{"caller before option", time.Minute, 2 * time.Second, 2 * time.Second, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			opts := []Option{WithHTTPClient(&http.Client{Transport: silent{}})}
			if c.option > 0 {
				opts = append(opts, WithLimits(Limits{Timeout: c.option}))
			}
			client, err := New("https://fleet.example", opts...)
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if c.caller > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.caller)
				defer cancel()
			}
			start := time.Now()
			_, err = client.Config(ctx, extension.Node{Key: "key"})
			if took := time.Since(start); took != c.want {
				t.Errorf("%s: ended after %v, want %v", c.what, took, c.want)
			}
			var answer *AnswerError
			if errors.Is(err, context.DeadlineExceeded) != c.callersDeadline || errors.As(err, &answer) == c.callersDeadline {
				t.Errorf("%s: %v", c.what, err)
			}
		})
	}
}

// slow is a server behind a link on which each log call takes so long.
type slow time.Duration

func (s slow) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Path == FleetEndpoints().Enroll {
		return answered(`{"node_key":"key"}`), nil
	}
	arrived := time.NewTimer(time.Duration(s))
	defer arrived.Stop()
	select {
	case <-arrived.C:
		return answered(`{}`), nil
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

func answered(body string) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader(body))}
}

// TestBatchOnASlowLinkArrives: one that takes longer than the extension's timeout
// gets more time from it, and may use it.
func TestBatchOnASlowLinkArrives(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		client, err := New("https://fleet.example", WithHTTPClient(&http.Client{Transport: slow(5 * time.Minute)}))
		if err != nil {
			t.Fatal(err)
		}
		ext, err := plugin.New(plugin.Settings{
			Dir: dir, Transport: client,
			Node: func() extension.Node { return extension.Node{Instance: "a", HostIdentifier: "a"} },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ext.Close() }()
		ext.Call(t.Context(), "logger", "osqvisor", map[string]string{"string": `{"n":1}`})
		start := time.Now()
		for range 10 {
			if err = ext.Flush(t.Context()); err == nil {
				break
			}
		}
		if err != nil {
			t.Errorf("not delivered in %v: %v", time.Since(start), err)
		}
	})
}
