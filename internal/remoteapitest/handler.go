package remoteapitest

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
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

// field returns a string of the outermost object without parsing what comes after it.
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
		CallWrite: e.Write,
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

type object = map[string]any

func (s *Server) enroll(w http.ResponseWriter, body []byte) {
	var req struct {
		Secret string `json:"enroll_secret"`
		Host   string `json:"host_identifier"`
	}
	if json.Unmarshal(body, &req) != nil || req.Host == "" {
		fail(w, http.StatusBadRequest, "enroll: not an object with a host_identifier")
		return
	}
	if req.Secret != s.secret {
		reply(w, http.StatusUnauthorized, object{"error": "enroll secret refused", "node_invalid": true})
		return
	}
	reply(w, http.StatusOK, object{"node_key": s.state.enroll(req.Host), "node_invalid": false})
}

func (s *Server) serveConfig(w http.ResponseWriter, host string) {
	s.state.mu.Lock()
	config, own := s.state.configs[host]
	if !own {
		config = s.state.config
	}
	s.state.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, config)
}

func (s *Server) takeLogs(w http.ResponseWriter, host string, body []byte, r *http.Request) {
	var req struct {
		LogType string            `json:"log_type"`
		Data    []json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		fail(w, http.StatusBadRequest, "log: "+err.Error())
		return
	}
	if req.LogType != "result" && req.LogType != "status" {
		fail(w, http.StatusBadRequest, "log: unknown log_type")
		return
	}
	batch := Batch{Host: host, LogType: req.LogType, Lines: req.Data}
	batch.ID, _ = url.PathUnescape(r.Header.Get(remoteapi.HeaderBatchID))
	batch.Signature, _ = base64.StdEncoding.DecodeString(r.Header.Get(remoteapi.HeaderSignature))
	batch.about(r.Header.Get(remoteapi.HeaderBatch))
	s.state.mu.Lock()
	s.state.batches[host] = append(s.state.batches[host], batch)
	s.state.mu.Unlock()
	reply(w, http.StatusOK, object{})
}

// about reads [remoteapi.HeaderBatch]; a part that is no number is 0.
func (b *Batch) about(header string) {
	for part := range strings.SplitSeq(header, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch key {
		case "queue":
			name, _ := url.PathUnescape(value)
			b.Queue = extension.Queue(name)
		case "epoch":
			b.Epoch, _ = url.PathUnescape(value)
		case "first":
			b.First, _ = strconv.ParseUint(value, 10, 64)
		case "last":
			b.Last, _ = strconv.ParseUint(value, 10, 64)
		}
	}
}

func (s *Server) handOut(w http.ResponseWriter, host string) {
	s.state.mu.Lock()
	set := s.state.queries[host]
	out := object{"queries": maps.Clone(set.Queries), "node_invalid": false}
	if set.Queries == nil {
		out["queries"] = object{}
	}
	if len(set.Discovery) > 0 {
		out["discovery"] = maps.Clone(set.Discovery)
	}
	if set.AccelerateSeconds > 0 {
		out["accelerate"] = set.AccelerateSeconds
	}
	s.state.mu.Unlock()
	reply(w, http.StatusOK, out)
}

func (s *Server) takeResults(w http.ResponseWriter, host string, body []byte) {
	var req struct {
		Queries  map[string]json.RawMessage       `json:"queries"`
		Statuses map[string]json.RawMessage       `json:"statuses"` // int, or string in old clients
		Messages map[string]string                `json:"messages"`
		Stats    map[string]*extension.QueryStats `json:"stats"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		fail(w, http.StatusBadRequest, "write: "+err.Error())
		return
	}
	s.state.mu.Lock()
	for _, id := range slices.Sorted(maps.Keys(req.Queries)) {
		result := extension.Result{ID: id, Rows: req.Queries[id], Message: req.Messages[id], Status: number(req.Statuses[id])}
		if stats := req.Stats[id]; stats != nil && *stats != (extension.QueryStats{}) {
			result.Stats = stats
		}
		s.state.results[host] = append(s.state.results[host], result)
		delete(s.state.queries[host].Queries, id)
		delete(s.state.queries[host].Discovery, id)
	}
	if set := s.state.queries[host]; len(set.Queries) == 0 {
		delete(s.state.queries, host)
	}
	s.state.mu.Unlock()
	reply(w, http.StatusOK, object{})
}

func number(raw json.RawMessage) int {
	text := string(raw)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	n, _ := strconv.Atoi(text)
	return n
}
