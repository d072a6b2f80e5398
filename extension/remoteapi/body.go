package remoteapi

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"sync"
)

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

// compress gives the same body, gzipped. It is compressed as a whole, so that its
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
