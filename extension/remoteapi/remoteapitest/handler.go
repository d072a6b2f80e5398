package remoteapitest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
)

const maxBody = 256 << 20 // bytes, decompressed

// handle reads the body first: only then does net/http notice that a client has
// gone away.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	if err != nil {
		fail(w, http.StatusBadRequest, "unreadable body")
		return
	}
	call := s.callOf(r.URL.Path)
	host, known := s.state.host(field(body, "node_key"))
	if call == CallEnroll {
		host = field(body, "host_identifier")
	}
	s.note(call, host, r, body)
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, call, host, known, body, r) })
	if fault := s.faults.next(call, r); fault != nil {
		fault(w, r, serve)
		return
	}
	serve(w, r)
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil || r.Header.Get("Content-Encoding") != "gzip" {
		return raw, err
	}
	zr, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(zr, maxBody))
}

// field gives a string of the outermost object without parsing what comes after it.
func field(body []byte, name string) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return ""
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return ""
		}
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return ""
		}
		var text string
		if key == name && json.Unmarshal(value, &text) == nil {
			return text
		}
	}
	return ""
}

func (s *Server) note(call Call, host string, r *http.Request, body []byte) {
	req := Request{Call: call, Host: host, Path: r.URL.Path, Header: r.Header.Clone()}
	if len(body) <= keptBody {
		req.Body = body
	}
	s.state.note(req)
}

func (s *Server) callOf(path string) Call {
	e := s.endpoints
	for call, endpoint := range map[Call]string{
		CallEnroll: e.Enroll, CallConfig: e.Config, CallLog: e.Log, CallRead: e.Read,
		CallWrite: e.Write, CallCarveBegin: e.CarveBegin, CallCarveBlock: e.CarveBlock,
	} {
		if endpoint != "" && endpoint == path {
			return call
		}
	}
	return CallAny
}

func (s *Server) serve(w http.ResponseWriter, call Call, host string, known bool, body []byte, r *http.Request) {
	switch {
	case r.Method != http.MethodPost:
		fail(w, http.StatusMethodNotAllowed, "only POST")
	case call == CallAny:
		fail(w, http.StatusNotFound, "no such endpoint")
	case call == CallEnroll:
		s.enroll(w, body)
	case call == CallCarveBlock:
		s.carveBlock(w, body)
	case !known:
		reply(w, http.StatusUnauthorized, map[string]any{"error": "invalid node key", "node_invalid": true})
	case call == CallConfig:
		s.serveConfig(w, host)
	case call == CallLog:
		s.takeLogs(w, host, body, r)
	case call == CallRead:
		s.handOut(w, host)
	case call == CallWrite:
		s.takeResults(w, host, body)
	case call == CallCarveBegin:
		s.carveBegin(w, host, body)
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]any{"error": text})
}
