package tlstrial

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
	querySQL = "select version from osquery_info"
	// lostAnswers is how many batches the server accepts at first and does not acknowledge.
	lostAnswers = 6
)

// Server is the server of the trial.
type Server struct {
	*remoteapitest.Server

	CA         string // the file with its certificate
	SecretPath string // the file with its enroll secret
	rounds     int    // of distributed queries
}

// NewServer starts one, and writes what an agent needs to dir.
func NewServer(dir string) (*Server, error) {
	small, err := remoteapitest.New()
	if err != nil {
		return nil, fmt.Errorf("start a server: %w", err)
	}
	s := &Server{Server: small, CA: filepath.Join(dir, "ca.pem"), SecretPath: filepath.Join(dir, "secret")}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: small.Certificate().Raw})
	for path, text := range map[string][]byte{s.CA: ca, s.SecretPath: []byte(small.EnrollSecret())} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			small.Close()
			return nil, fmt.Errorf("start a server: %w", err)
		}
	}
	small.SetFault(LoseAnswers(lostAnswers))
	return s, nil
}

// LoseAnswers makes the server accept the first n batches of results and lose its answers:
// the agent has to send them again, and the server to recognize them.
func LoseAnswers(n int64) func(remoteapitest.Call, *http.Request) remoteapitest.Fault {
	var taken atomic.Int64
	return func(_ remoteapitest.Call, r *http.Request) remoteapitest.Fault {
		if strings.HasPrefix(r.Header.Get(remoteapi.HeaderBatch), "queue=results") && taken.Add(1) <= n {
			return remoteapitest.LoseAnswer()
		}
		return nil
	}
}

// query sets a distributed query for every instance.
func (s *Server) query() {
	s.rounds++
	set := extension.QuerySet{Queries: map[string]string{fmt.Sprintf("query-%d", s.rounds): querySQL}}
	for _, id := range Names() {
		s.SetQueries(HostIdentifier(id), set)
	}
}

func (s *Server) queried() int { return s.rounds * len(Names()) }

// answered counts the queries that were answered with rows.
func (s *Server) answered() int {
	n := 0
	for _, id := range Names() {
		seen := map[string]bool{}
		for _, r := range s.Results(HostIdentifier(id)) {
			if r.Status == 0 && len(r.Rows) > len("[]") && !seen[r.ID] {
				seen[r.ID] = true
				n++
			}
		}
	}
	return n
}

// reenrolments counts the enrolments after each instance's first.
func (s *Server) reenrolments() int {
	n := 0
	for _, id := range Names() {
		n += max(0, s.Enrolments(HostIdentifier(id))-1)
	}
	return n
}

// Arrived returns the batches of an instance that have numbers.
func (s *Server) Arrived(id string) []soak.Batch {
	var out []soak.Batch
	for _, b := range s.Batches(HostIdentifier(id)) {
		var lines []uint64
		for _, line := range b.Lines {
			if n, ok := NumberOf(line); ok {
				lines = append(lines, n)
			}
		}
		if len(lines) > 0 {
			out = append(out, soak.Batch{ID: b.ID, Lines: lines})
		}
	}
	return out
}
