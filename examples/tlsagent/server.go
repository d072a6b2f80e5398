package main

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/internal/soak"
)

const (
	question = "select version from osquery_info"
	// lostAnswers is how many batches the server takes at first without saying so.
	lostAnswers = 6
)

// server is the small server of the tour.
type server struct {
	*remoteapitest.Server
	ca, secretPath string
	rounds         int // of distributed queries
}

// newServer starts one, and writes what an agent needs to dir.
func newServer(dir string) (*server, error) {
	small, err := remoteapitest.New()
	if err != nil {
		return nil, fmt.Errorf("start a server: %w", err)
	}
	s := &server{Server: small, ca: filepath.Join(dir, "ca.pem"), secretPath: filepath.Join(dir, "secret")}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: small.Certificate().Raw})
	for path, text := range map[string][]byte{s.ca: ca, s.secretPath: []byte(small.EnrollSecret())} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			small.Close()
			return nil, fmt.Errorf("start a server: %w", err)
		}
	}
	small.SetFault(loseAnswers(lostAnswers))
	return s, nil
}

// loseAnswers makes the server take the first n batches of results without saying
// so: the agent has to send them again, and the server to see that it has them.
func loseAnswers(n int64) func(remoteapitest.Call, *http.Request) remoteapitest.Fault {
	var taken atomic.Int64
	return func(_ remoteapitest.Call, r *http.Request) remoteapitest.Fault {
		if strings.HasPrefix(r.Header.Get(remoteapi.HeaderBatch), "queue=results") && taken.Add(1) <= n {
			return remoteapitest.LoseAnswer()
		}
		return nil
	}
}

// ask asks every instance a distributed query.
func (s *server) ask() {
	s.rounds++
	set := extension.QuerySet{Queries: map[string]string{fmt.Sprintf("question-%d", s.rounds): question}}
	for _, id := range instanceNames() {
		s.SetQueries(hostIdentifier(id), set)
	}
}

func (s *server) asked() int { return s.rounds * len(instanceNames()) }

// answered counts the queries that were answered with rows.
func (s *server) answered() int {
	n := 0
	for _, id := range instanceNames() {
		seen := map[string]bool{}
		for _, r := range s.Results(hostIdentifier(id)) {
			if r.Status == 0 && len(r.Rows) > len("[]") && !seen[r.ID] {
				seen[r.ID] = true
				n++
			}
		}
	}
	return n
}

// reenrolments counts the enrolments after each instance's first.
func (s *server) reenrolments() int {
	n := 0
	for _, id := range instanceNames() {
		n += max(0, s.Enrolments(hostIdentifier(id))-1)
	}
	return n
}

// arrived gives the batches of an instance that bear numbers.
func (s *server) arrived(id string) []soak.Batch {
	var out []soak.Batch
	for _, b := range s.Batches(hostIdentifier(id)) {
		var lines []uint64
		for _, line := range b.Lines {
			if n, ok := numberOf(line); ok {
				lines = append(lines, n)
			}
		}
		if len(lines) > 0 {
			out = append(out, soak.Batch{ID: b.ID, Lines: lines})
		}
	}
	return out
}
