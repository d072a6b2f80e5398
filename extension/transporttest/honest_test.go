package transporttest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/osqvisor/osqvisor/extension"
)

// honest is a transport of a usual kind: it carries JSON lines, and its server answers
// errors to what makes no sense.
func honest(carry func(lines [][]byte) ([][]byte, error)) func(*testing.T) Harness {
	return func(*testing.T) Harness {
		h := &honestHarness{hooked: &hooked{memory: newMemory()}}
		known := map[string]bool{}
		h.known = known
		h.publish = func(ctx context.Context, n extension.Node, b extension.Batch) error {
			lines, err := carry(b.Lines)
			if err != nil {
				return err
			}
			b.Lines = lines
			return h.memory.PublishLogs(ctx, n, b)
		}
		h.write = func(ctx context.Context, n extension.Node, r []extension.Result) error {
			if len(r) == 0 {
				return errors.New("status 400: no results")
			}
			r = bytesOfRows(r)
			return h.memory.WriteResults(ctx, n, r)
		}
		h.config = func(ctx context.Context, n extension.Node) (map[string]string, error) {
			h.mu.Lock()
			ok := known[n.Instance]
			h.mu.Unlock()
			if !ok {
				return nil, errors.New("status 404: this node has no config")
			}
			return h.memory.Config(ctx, n)
		}
		return h
	}
}

type honestHarness struct {
	*hooked
	known map[string]bool
}

func (h *honestHarness) Transport() extension.Transport { return h }
func (h *honestHarness) Limits() Limits                 { return Limits{} }

func (h *honestHarness) SetConfig(instance string, config map[string]string) {
	h.mu.Lock()
	h.known[instance] = true
	h.mu.Unlock()
	h.memory.SetConfig(instance, config)
}

// bytesOfRows puts rows into a JSON document and takes them out again.
func bytesOfRows(in []extension.Result) []extension.Result {
	out := append([]extension.Result(nil), in...)
	for i := range out {
		if len(out[i].Rows) > 0 {
			out[i].Rows, _ = json.Marshal(out[i].Rows)
		}
	}
	return out
}

// throughNDJSON is one document a line; the server skips blank lines.
func throughNDJSON(lines [][]byte) ([][]byte, error) {
	var body bytes.Buffer
	if _, err := (extension.Batch{Lines: lines}).WriteTo(&body); err != nil {
		return nil, err
	}
	var out [][]byte
	for _, line := range bytes.Split(body.Bytes(), []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("status 400: no lines")
	}
	return out, nil
}

// throughEnvelope is a JSON document with the lines as its elements, as encoding/json writes
// it: without white space, and with \u003c for <.
func throughEnvelope(lines [][]byte) ([][]byte, error) {
	in := make([]json.RawMessage, len(lines))
	for i, line := range lines {
		in[i] = line
	}
	body, err := json.Marshal(map[string]any{"data": in})
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var out struct{ Data []json.RawMessage }
	if err := json.Unmarshal(body, &out); err != nil || len(out.Data) == 0 {
		return nil, errors.Join(errors.New("status 400: no lines"), err)
	}
	got := make([][]byte, len(out.Data))
	for i, line := range out.Data {
		got[i] = line
	}
	return got, nil
}

// The usual transports conform without declaring anything.
func TestTrial10HonestTransportsConform(t *testing.T) {
	t.Run("NDJSON", func(t *testing.T) { Run(t, honest(throughNDJSON)) })
	t.Run("envelope", func(t *testing.T) { Run(t, honest(throughEnvelope)) })
}
