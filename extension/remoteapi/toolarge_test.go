package remoteapi_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// TestTooLarge: a batch that is too large can be split, a line cannot, and other
// calls have nothing to split.
func TestTooLarge(t *testing.T) {
	for _, permanent := range []bool{true, false} {
		var opts []remoteapi.Option
		if !permanent {
			opts = append(opts, remoteapi.WithQuirks(remoteapi.Quirks{PermanentStatuses: []int{}}))
		}
		server, client := serve(t, opts...)
		server.FailNext(remoteapitest.CallAny, 100, remoteapitest.Answer(http.StatusRequestEntityTooLarge, `{}`))
		node := extension.Node{Key: "k-e-y", Instance: "a"}
		for lines, large := range map[int]bool{1: false, 2: true, 3: true} {
			err := client.PublishLogs(within(t, 10*time.Second), node, batch(slices.Repeat([]string{`{}`}, lines)...))
			var status *remoteapi.StatusError
			if !errors.As(err, &status) || status.Status != http.StatusRequestEntityTooLarge {
				t.Errorf("%d lines: %v is no StatusError of 413", lines, err)
			}
			if errors.Is(err, extension.ErrTooLarge) != large || errors.Is(err, extension.ErrPermanent) != (permanent && !large) {
				t.Errorf("%d lines, permanent %t: %v", lines, permanent, err)
			}
		}
		for _, c := range apiCalls() {
			if err := c.do(within(t, 10*time.Second), client, node); err == nil || errors.Is(err, extension.ErrTooLarge) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

// bodyLimit answers 413 to log calls with a body larger than limit, as a proxy does.
func bodyLimit(limit int) func(remoteapitest.Call, *http.Request) remoteapitest.Fault {
	return func(call remoteapitest.Call, r *http.Request) remoteapitest.Fault {
		if call == remoteapitest.CallLog && r.ContentLength > int64(limit) {
			return remoteapitest.Answer(http.StatusRequestEntityTooLarge, "<html>too large</html>", "Content-Type", "text/html")
		}
		return nil
	}
}

// TestShipperSplitsWhatTheServerFindsTooLarge runs the extension's shipper on a
// server with a small limit: every line arrives, in order and once, but for the
// one that is too large by itself.
func TestShipperSplitsWhatTheServerFindsTooLarge(t *testing.T) {
	server, client := serve(t)
	server.SetFault(bodyLimit(600))
	h := newHost(t, client, nil)
	var want []string
	for i := range 300 {
		line := fmt.Sprintf(`{"n":%d}`, i)
		if i == 150 {
			line = `{"filler":"` + strings.Repeat("x", 4000) + `"}`
		} else {
			want = append(want, line)
		}
		h.log(line)
	}
	if err := h.Flush(within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	got, ids := arrived(server.Batches("a"))
	if !slices.Equal(got, want) {
		t.Errorf("%d lines arrived, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	if len(ids) != len(server.Batches("a")) || len(ids) < 5 {
		t.Errorf("%d ids of %d batches", len(ids), len(server.Batches("a")))
	}
	if waiting := h.Pending(); waiting["results"] != 0 {
		t.Errorf("waiting: %v", waiting)
	}
}

func arrived(batches []remoteapitest.Batch) (lines []string, ids map[string]bool) {
	ids = map[string]bool{}
	for _, b := range batches {
		ids[b.ID] = true
		for _, raw := range b.Lines {
			lines = append(lines, string(raw))
		}
	}
	return lines, ids
}

// TestTrial04ResultsTooLarge: several results that are too large together can be split, one cannot.
func TestTrial04ResultsTooLarge(t *testing.T) {
	server, client := serve(t)
	server.FailNext(remoteapitest.CallAny, 2, remoteapitest.Answer(http.StatusRequestEntityTooLarge, `{}`))
	node := extension.Node{Key: "k-e-y", Instance: "a"}
	one := extension.Result{ID: "q", Rows: []byte(`[]`)}
	for _, results := range [][]extension.Result{{one}, {one, one}} {
		err := client.WriteResults(within(t, 10*time.Second), node, results)
		if errors.Is(err, extension.ErrTooLarge) != (len(results) > 1) {
			t.Errorf("%d results: %v", len(results), err)
		}
	}
}
