package remoteapitest

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Call names a call of the API.
type Call string

// The calls.
const (
	CallAny    Call = ""
	CallEnroll Call = "enroll"
	CallConfig Call = "config"
	CallLog    Call = "log"
	CallRead   Call = "read"
	CallWrite  Call = "write"
)

// Fault answers a request in the server's place. The body has been read already;
// serve answers as the server would, and records.
type Fault func(w http.ResponseWriter, r *http.Request, serve http.Handler)

type scripted struct {
	call  Call
	left  int
	fault Fault
}

type faults struct {
	mu     sync.Mutex
	script []*scripted
	hook   func(Call, *http.Request) Fault
}

// FailNext makes the next n requests of a call meet a fault; [CallAny] means all
// calls, enrolments too. Several scripts for one call run one after the other.
func (s *Server) FailNext(call Call, n int, fault Fault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.script = append(s.faults.script, &scripted{call, n, fault})
}

// SetFault calls f for every request without a script of FailNext; nil from
// it, or nil for f, serves the request. f is called from many goroutines at once.
func (s *Server) SetFault(f func(Call, *http.Request) Fault) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.hook = f
}

func (f *faults) next(call Call, r *http.Request) Fault {
	f.mu.Lock()
	for _, entry := range f.script {
		if entry.left > 0 && (entry.call == CallAny || entry.call == call) {
			entry.left--
			f.mu.Unlock()
			return entry.fault
		}
	}
	hook := f.hook
	f.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(call, r)
}

// Answer answers with a status, a body and headers given as name, value, ….
func Answer(status int, body string, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// HTML answers like a proxy: 200 with a page.
func HTML() Fault {
	return Answer(http.StatusOK, "<!DOCTYPE html><html><body>Please sign in</body></html>", "Content-Type", "text/html; charset=utf-8")
}

// Busy answers 503 with a Retry-After of so many seconds.
func Busy(seconds int) Fault {
	return Answer(http.StatusServiceUnavailable, `{"error":"busy"}`, "Retry-After", strconv.Itoa(seconds))
}

// NodeInvalid answers that the node key is unknown, under a status.
func NodeInvalid(status int) Fault {
	return Answer(status, `{"node_invalid":true,"error":"invalid node key"}`)
}

// Large answers 200 with a valid JSON object of about so many bytes.
func Large(size int) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		chunk := bytes.Repeat([]byte("x"), 64<<10)
		_, _ = io.WriteString(w, `{"filler":"`)
		for sent := 0; sent < size && r.Context().Err() == nil; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `"}`)
	}
}

// Hang answers nothing until the client goes away or the server is stopped.
func Hang() Fault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }
}

// Drip answers 200 with one byte an interval, without end.
func Drip(interval time.Duration) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, " "); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
			}
		}
	}
}

// Cut closes the connection without an answer.
func Cut() Fault {
	return func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }
}

// CutShort closes the connection in the middle of an answer.
func CutShort() Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, `{"node_key":`)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// LoseAnswer serves and records the request, and then closes the connection: the
// client cannot know that it succeeded.
func LoseAnswer() Fault {
	return func(_ http.ResponseWriter, r *http.Request, serve http.Handler) {
		serve.ServeHTTP(discard{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}
