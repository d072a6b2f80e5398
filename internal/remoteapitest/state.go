package remoteapitest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

// Batch is one log call that the server accepted.
type Batch struct {
	Host    string
	LogType string // "result" or "status"
	// ID, Queue, Epoch, First, Last and Signature are from remoteapi's headers; empty
	// without them.
	ID          string
	Queue       extension.Queue
	Epoch       string
	First, Last uint64
	Signature   []byte
	// Lines are the elements of "data", byte for byte.
	Lines []json.RawMessage
}

// Request is one request as it came, whatever was made of it.
type Request struct {
	Call   Call // "" for an unknown path
	Host   string
	Path   string
	Header http.Header
	// Body is the decompressed body; nil when larger than 64 KiB.
	Body []byte
}

const (
	keptBody     = 64 << 10
	keptRequests = 1024
)

// state is what the server knows; it is small enough for one lock.
type state struct {
	mu       sync.Mutex
	config   string // for hosts without one of their own
	configs  map[string]string
	queries  map[string]extension.QuerySet
	keys     map[string]string // node key → host
	enrolled map[string]int
	batches  map[string][]Batch
	results  map[string][]extension.Result
	requests []Request
	serial   int
}

func (s *state) init() {
	s.config = "{}"
	s.configs, s.queries, s.keys = map[string]string{}, map[string]extension.QuerySet{}, map[string]string{}
	s.enrolled, s.batches, s.results = map[string]int{}, map[string][]Batch{}, map[string][]extension.Result{}
}

func (s *state) enroll(host string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	key := fmt.Sprintf("node-key-%04d-of-%x", s.serial, host)
	s.keys[key] = host
	s.enrolled[host]++
	return key
}

func (s *state) host(key string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	host, known := s.keys[key]
	return host, known
}

func (s *state) note(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == keptRequests {
		s.requests = slices.Delete(s.requests, 0, 1)
	}
	s.requests = append(s.requests, r)
}

// SetConfig sets what a host gets from the config call, a JSON document; "" as the
// host means all that have none of their own. Without any it is {}.
func (s *Server) SetConfig(host, config string) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	if host == "" {
		s.state.config = config
		return
	}
	s.state.configs[host] = config
}

// SetQueries sets a host's distributed queries. They are handed out at each read,
// each until its result has been written.
func (s *Server) SetQueries(host string, set extension.QuerySet) {
	set.Queries, set.Discovery = maps.Clone(set.Queries), maps.Clone(set.Discovery)
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.queries[host] = set
}

// InvalidateKeys forgets the node keys of these hosts, or of all when none is
// named: their next calls are answered with node_invalid.
func (s *Server) InvalidateKeys(hosts ...string) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	maps.DeleteFunc(s.state.keys, func(_, host string) bool {
		return len(hosts) == 0 || slices.Contains(hosts, host)
	})
}

// Batches returns the log calls taken from a host, in order of arrival, repeated
// ones too.
func (s *Server) Batches(host string) []Batch {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return slices.Clone(s.state.batches[host])
}

// Results returns the results taken from a host in order of arrival, those of one
// call by their id.
func (s *Server) Results(host string) []extension.Result {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return slices.Clone(s.state.results[host])
}

// Enrolments returns how often a host has enrolled.
func (s *Server) Enrolments(host string) int {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return s.state.enrolled[host]
}

// Requests returns the last 1024 requests as they came, failed ones too.
func (s *Server) Requests() []Request {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return slices.Clone(s.state.requests)
}

// Forget drops recorded batches, results and requests; node keys, configs
// and queries stay.
func (s *Server) Forget() {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	clear(s.state.batches)
	clear(s.state.results)
	s.state.requests = nil
}
