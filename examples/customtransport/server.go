package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

// maxRequest bounds what the server reads of a request, in bytes.
const maxRequest = 32 << 20

// whereQuery is the query for each instance: its own database is below its own
// directory, so that the answer names its sender.
const whereQuery = "select value from osquery_flags where name = 'database_path'"

// Server is the host's server, as small as can be. It returns each instance a config of
// its own and one distributed query, and keeps what they send.
type Server struct {
	say     func(format string, args ...any)
	changed chan struct{} // has an element after each change

	mu      sync.Mutex
	clients map[string]*client
}

// client is what the server knows of one instance.
type client struct {
	tenant  string
	configs int
	batches map[string]int // by id, how often it came
	logs    []string       // names of the scheduled queries in the log lines
	asked   bool
	answer  string
}

// NewServer makes a server for the instances of these ids. Whatever comes is printed by say.
func NewServer(say func(format string, args ...any), ids ...string) *Server {
	s := &Server{say: say, changed: make(chan struct{}, 1), clients: map[string]*client{}}
	for _, id := range ids {
		s.clients[id] = &client{batches: map[string]int{}}
	}
	return s
}

// Handler returns the server's addresses.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /instances/{id}/config", s.known(s.config))
	mux.HandleFunc("POST /instances/{id}/logs", s.known(s.logs))
	mux.HandleFunc("GET /instances/{id}/queries", s.known(s.queries))
	mux.HandleFunc("POST /instances/{id}/results", s.known(s.results))
	return mux
}

// known finds the instance of a request.
func (s *Server) known(handle func(w http.ResponseWriter, r *http.Request, id string, c *client)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		s.mu.Lock()
		c := s.clients[id]
		if c != nil {
			c.tenant = r.Header.Get("X-Tenant")
		}
		s.mu.Unlock()
		if c == nil {
			http.Error(w, "no such instance", http.StatusNotFound)
			return
		}
		handle(w, r, id, c)
		select {
		case s.changed <- struct{}{}:
		default: // somebody is being notified already
		}
	}
}

// queryName names an instance's own scheduled query.
func queryName(id string) string { return "clock-of-" + id }

func (s *Server) config(w http.ResponseWriter, _ *http.Request, id string, c *client) {
	s.mu.Lock()
	c.configs++
	tenant := c.tenant
	s.mu.Unlock()
	s.say("server: %s (tenant %q) fetches its config", id, tenant)
	query := map[string]any{"query": "select unix_time from time", "interval": 1, "snapshot": true}
	document, err := json.Marshal(map[string]any{"schedule": map[string]any{queryName(id): query}})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	reply(w, map[string]string{"main": string(document)}) // source name to document, as osquery has it
}

// logs takes a batch, but refuses the first one of each instance at its first try:
// it comes again under the same id.
func (s *Server) logs(w http.ResponseWriter, r *http.Request, id string, c *client) {
	var batch extension.Batch
	if err := json.NewDecoder(r.Body).Decode(&batch); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	c.batches[batch.ID]++
	refuse := len(c.batches) == 1 && c.batches[batch.ID] == 1
	if !refuse && batch.Queue == extension.QueueSnapshots {
		c.logs = append(c.logs, scheduledNames(batch.Lines)...)
	}
	s.mu.Unlock()
	if refuse {
		s.say("server: %s sends batch %s of %d lines: busy, not before a second", id, batch.ID, len(batch.Lines))
		w.Header().Set("Retry-After", "1")
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	s.say("server: %s sends batch %s of %d lines: taken", id, batch.ID, len(batch.Lines))
	w.WriteHeader(http.StatusNoContent)
}

// scheduledNames returns the name of the scheduled query of each line, "" where there is
// none.
func scheduledNames(lines [][]byte) []string {
	names := make([]string, len(lines))
	for i, line := range lines {
		var result struct{ Name string }
		_ = json.Unmarshal(line, &result) // a line that is no JSON has no name
		names[i] = result.Name
	}
	return names
}

func (s *Server) queries(w http.ResponseWriter, _ *http.Request, id string, c *client) {
	queries := map[string]string{}
	s.mu.Lock()
	if !c.asked {
		c.asked = true
		queries["where-is-"+id] = whereQuery
	}
	s.mu.Unlock()
	if len(queries) > 0 {
		s.say("server: %s is asked: %s", id, whereQuery)
	}
	reply(w, extension.QuerySet{Queries: queries})
}

func (s *Server) results(w http.ResponseWriter, r *http.Request, id string, c *client) {
	var results []result
	if err := json.NewDecoder(r.Body).Decode(&results); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, result := range results {
		s.say("server: %s answers %s with status %d: %s", id, result.ID, result.Status, result.Rows)
		if result.ID == "where-is-"+id && result.Status == 0 {
			s.mu.Lock()
			c.answer = result.Rows
			s.mu.Unlock()
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// isOwn reports whether an answer names a database in the instance's own directory.
func isOwn(answer, id string) bool {
	var rows []struct{ Value string }
	err := json.Unmarshal([]byte(answer), &rows)
	return err == nil && len(rows) == 1 && filepath.Base(filepath.Dir(rows[0].Value)) == id
}

// Missing returns what an instance did not do yet, or did wrong; nil when all is well.
func (s *Server) Missing(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[id]
	var missing []string
	lack := func(bad bool, format string, args ...any) {
		if bad {
			missing = append(missing, id+": "+fmt.Sprintf(format, args...))
		}
	}
	lack(c.configs == 0, "no config was fetched")
	lack(c.tenant != tenantOf(id), "the tenant is %q, want %q", c.tenant, tenantOf(id))
	lack(len(c.logs) == 0, "no results of its schedule came")
	for _, name := range c.logs {
		lack(name != queryName(id), "a result of %q came", name)
	}
	lack(!repeated(c.batches), "the batch that was refused did not come again")
	lack(c.answer == "", "the distributed query was not answered")
	lack(c.answer != "" && !isOwn(c.answer, id), "the answer %s is not its own", c.answer)
	return missing
}

func repeated(batches map[string]int) bool {
	for _, times := range batches {
		if times > 1 {
			return true
		}
	}
	return false
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // a client that went away calls again
}
