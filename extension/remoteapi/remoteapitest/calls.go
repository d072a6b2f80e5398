package remoteapitest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
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

func (s *Server) carveBegin(w http.ResponseWriter, host string, body []byte) {
	var req struct {
		BlockCount int64  `json:"block_count"`
		BlockSize  int64  `json:"block_size"`
		CarveSize  int64  `json:"carve_size"`
		CarveID    string `json:"carve_id"`
		RequestID  string `json:"request_id"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		fail(w, http.StatusBadRequest, "carve: "+err.Error())
		return
	}
	s.state.mu.Lock()
	s.state.serial++
	session := fmt.Sprintf("session-%04d", s.state.serial)
	s.state.carves[session] = &Carve{Host: host, Session: session, Blocks: map[int64][]byte{},
		Request: extension.CarveRequest{BlockCount: req.BlockCount, BlockSize: req.BlockSize,
			CarveSize: req.CarveSize, CarveID: req.CarveID, RequestID: req.RequestID}}
	s.state.mu.Unlock()
	reply(w, http.StatusOK, object{"session_id": session, "success": true})
}

// carveBlock knows its sender by session and request id, as the API has it.
func (s *Server) carveBlock(w http.ResponseWriter, body []byte) {
	var req struct {
		BlockID   int64  `json:"block_id"`
		Session   string `json:"session_id"`
		RequestID string `json:"request_id"`
		Data      []byte `json:"data"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		fail(w, http.StatusBadRequest, "carve: "+err.Error())
		return
	}
	s.state.mu.Lock()
	carve := s.state.carves[req.Session]
	found := carve != nil && carve.Request.RequestID == req.RequestID
	if found {
		carve.Blocks[req.BlockID] = req.Data
	}
	s.state.mu.Unlock()
	if !found {
		fail(w, http.StatusNotFound, "carve: no such session")
		return
	}
	reply(w, http.StatusOK, object{"success": true})
}
