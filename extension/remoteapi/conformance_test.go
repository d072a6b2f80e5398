package remoteapi_test

import (
	"encoding/json"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/extension/transporttest"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

func TestTransportConforms(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Harness { return newHarness(t) })
}

func TestTransportConformsCompressed(t *testing.T) {
	transporttest.Run(t, func(t *testing.T) transporttest.Harness {
		h := newHarness(t, remoteapi.WithGzip())
		h.maxBatch = 2 << 20
		return h
	})
}

// harness shows the suite the server's side.
type harness struct {
	server *remoteapitest.Server
	client *remoteapi.Client
	// maxBatch spares the second run what the first one showed.
	maxBatch int

	mu      sync.Mutex
	failure transporttest.Failure
	left    int
}

func newHarness(t *testing.T, opts ...remoteapi.Option) *harness {
	t.Helper()
	server, client := serve(t, opts...)
	h := &harness{server: server, client: client}
	server.SetFault(h.fault)
	return h
}

func (h *harness) fault(call remoteapitest.Call, _ *http.Request) remoteapitest.Fault {
	h.mu.Lock()
	defer h.mu.Unlock()
	if call == remoteapitest.CallEnroll || h.left == 0 {
		return nil
	}
	h.left--
	switch h.failure.Kind {
	case transporttest.RetryAfter:
		return remoteapitest.Busy(int(h.failure.After / time.Second))
	case transporttest.NodeInvalid:
		return remoteapitest.NodeInvalid(http.StatusUnauthorized)
	case transporttest.Permanent:
		return remoteapitest.Answer(http.StatusUnprocessableEntity, "")
	case transporttest.TooLarge:
		return remoteapitest.Answer(http.StatusRequestEntityTooLarge, "")
	case transporttest.Hang:
		return remoteapitest.Hang()
	case transporttest.LostAnswer:
		return remoteapitest.LoseAnswer()
	}
	return remoteapitest.Answer(http.StatusInternalServerError, `{"error":"out of order"}`)
}

func (h *harness) Transport() extension.Transport { return h.client }

func (h *harness) Received(instance string) []extension.Batch {
	var out []extension.Batch
	for _, b := range h.server.Batches(instance) {
		batch := extension.Batch{ID: b.ID, Queue: b.Queue, Epoch: b.Epoch, First: b.First, Last: b.Last, Signature: b.Signature}
		for _, raw := range b.Lines {
			batch.Lines = append(batch.Lines, line(raw))
		}
		out = append(out, batch)
	}
	return out
}

// line undoes what was done to lines that are not JSON.
func line(raw json.RawMessage) []byte {
	var text string
	if raw[0] == '"' && json.Unmarshal(raw, &text) == nil {
		return []byte(text)
	}
	return raw
}

func (h *harness) Results(instance string) []extension.Result { return h.server.Results(instance) }

func (h *harness) SetConfig(instance string, config map[string]string) {
	h.server.SetConfig(instance, config["tls_plugin"])
}

func (h *harness) SetQueries(instance string, set extension.QuerySet) {
	h.server.SetQueries(instance, set)
}

func (h *harness) FailNext(f transporttest.Failure, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failure, h.left = f, n
}

func (h *harness) Limits() transporttest.Limits {
	return transporttest.Limits{
		Source:   "tls_plugin",
		MaxBatch: h.maxBatch,
		Also:     []transporttest.Feature{transporttest.TooLarges, transporttest.NotJSON},
		Cannot: map[transporttest.Feature]string{
			transporttest.Sources:    "the remote API answers one config document",
			transporttest.ExactBytes: "the remote API carries JSON, which has no place for bytes that are not UTF-8",
		},
	}
}
