package remoteapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/osqvisor/osqvisor/extension"
)

const replacement = "\uFFFD"

// quote returns a JSON string. Marshalling a string cannot fail.
func quote(s string) []byte {
	out, _ := json.Marshal(s)
	return out
}

// element makes a line an element of a JSON array: itself whenever it can be.
func element(line []byte) []byte {
	if !json.Valid(line) {
		return quote(string(line))
	}
	if !utf8.Valid(line) {
		return bytes.ToValidUTF8(line, []byte(replacement))
	}
	return line
}

// logType is the name of a queue in this API, which knows two.
func logType(q extension.Queue) string {
	if q == extension.QueueStatus {
		return "status"
	}
	return "result"
}

func logBody(key string, batch extension.Batch) *body {
	b := newBody()
	b.parts = make([][]byte, 0, 2*len(batch.Lines)+2)
	b.add([]byte(`{"node_key":` + string(quote(key)) + `,"log_type":"` + logType(batch.Queue) + `","data":[`))
	comma := []byte(",")
	for i, line := range batch.Lines {
		if i > 0 {
			b.add(comma)
		}
		b.add(element(line))
	}
	b.add([]byte("]}"))
	return b
}

func keyBody(key string) *body {
	return newBody([]byte(`{"node_key":` + string(quote(key)) + `}`))
}

// resultsBody writes what osqueryd's own plugin writes. stringStatuses is for
// servers that still want statuses as strings, as osquery once sent them.
func resultsBody(key string, results []extension.Result, stringStatuses bool) (*body, error) {
	statuses, messages, stats := map[string]any{}, map[string]string{}, map[string]any{}
	b := newBody([]byte(`{"node_key":` + string(quote(key)) + `,"queries":{`))
	for i, r := range results {
		if i > 0 {
			b.add([]byte(","))
		}
		rows, note := rowsElement(r.Rows)
		b.add(quote(r.ID), []byte(":"), rows)
		status, message := r.Status, r.Message
		if note != "" {
			status, message = max(status, 1), note
		}
		statuses[r.ID], messages[r.ID], stats[r.ID] = status, message, struct{}{}
		if stringStatuses {
			statuses[r.ID] = strconv.Itoa(status)
		}
		if r.Stats != nil {
			stats[r.ID] = r.Stats
		}
	}
	tail, err := json.Marshal(struct {
		Statuses map[string]any    `json:"statuses"`
		Messages map[string]string `json:"messages"`
		Stats    map[string]any    `json:"stats"`
	}{statuses, messages, stats})
	if err != nil {
		return nil, err
	}
	b.add([]byte("},"), tail[1:])
	return b, nil
}

// rowsElement returns rows as they are; one result that is not JSON must not spoil
// the others, so it turns into a failed one that says so.
func rowsElement(rows json.RawMessage) (element []byte, note string) {
	switch {
	case len(rows) == 0:
		return []byte("[]"), ""
	case !json.Valid(rows):
		return []byte("[]"), "the rows of this result were not valid JSON and have been left out"
	case !utf8.Valid(rows):
		return bytes.ToValidUTF8(rows, []byte(replacement)), ""
	}
	return rows, ""
}

func enrollBody(secret, host string, req extension.EnrollRequest) (*body, error) {
	details := req.HostDetails
	if details == nil {
		details = map[string]map[string]string{}
	}
	out, err := json.Marshal(struct {
		Secret   string                       `json:"enroll_secret"`
		Host     string                       `json:"host_identifier"`
		Platform string                       `json:"platform_type"`
		Details  map[string]map[string]string `json:"host_details"`
	}{secret, host, strconv.Itoa(req.PlatformType), details})
	return newBody(out), err
}

var errReleased = errors.New("the call is over")

// body is a request's body in parts, so that a batch's lines are sent from where
// they lie. net/http may go on reading a body after the call has returned;
// release ends that, because the lines belong to the caller again.
type body struct {
	mu     sync.Mutex
	parts  [][]byte // nil once released
	length int64
	closed bool
}

func newBody(parts ...[]byte) *body {
	b := &body{parts: parts}
	for _, p := range parts {
		b.length += int64(len(p))
	}
	return b
}

func (b *body) add(parts ...[]byte) {
	for _, p := range parts {
		b.parts = append(b.parts, p)
		b.length += int64(len(p))
	}
}

// compress returns the same body, gzipped. It is compressed as a whole, so that its
// length is known: some servers and gateways refuse chunked requests.
func (b *body) compress() (*body, error) {
	var out bytes.Buffer
	zw := gzip.NewWriter(&out)
	if _, err := io.Copy(zw, b.reader()); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return newBody(out.Bytes()), nil
}

func (b *body) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts, b.closed = nil, true
}

// reader starts over from the first byte; net/http asks for a second one when a
// kept-alive connection turned out to be dead before anything was sent on it.
func (b *body) reader() io.ReadCloser { return &bodyReader{body: b} }

type bodyReader struct {
	body         *body
	part, offset int
}

func (r *bodyReader) Read(p []byte) (int, error) {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	if r.body.closed {
		return 0, errReleased
	}
	n := 0
	for n < len(p) && r.part < len(r.body.parts) {
		c := copy(p[n:], r.body.parts[r.part][r.offset:])
		n += c
		r.offset += c
		if r.offset == len(r.body.parts[r.part]) {
			r.part, r.offset = r.part+1, 0
		}
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (r *bodyReader) Close() error { return nil }
