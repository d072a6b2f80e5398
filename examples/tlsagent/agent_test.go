package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/internal/tlstrial"
)

// lonely is an agent to which nobody listens any more.
type lonely struct {
	stop    func() error
	batches chan struct{} // has an element for each batch of results that the server is sent
	exited  chan error
	stderr  strings.Builder
}

// newLonely starts an agent, and stops to listen when the first lines are made.
func newLonely(t *testing.T) *lonely {
	t.Helper()
	dir, err := os.MkdirTemp("", "ta") // t.TempDir is too long for a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	osqueryd := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{TimeScale: 0.2}))
	srv, err := tlstrial.NewServer(dir)
	must(t, err)
	t.Cleanup(srv.Close)
	self, err := os.Executable()
	must(t, err)

	l := &lonely{batches: make(chan struct{}), exited: make(chan error, 1)}
	agent := exec.CommandContext(t.Context(), self, "agent")
	agent.Stderr = &l.stderr
	stdin, err := agent.StdinPipe()
	must(t, err)
	l.stop = stdin.Close
	stdout, err := agent.StdoutPipe()
	must(t, err)
	must(t, agent.Start())
	must(t, json.NewEncoder(stdin).Encode(tlstrial.Orders{Server: srv.URL(), CA: srv.CA, SecretPath: srv.SecretPath,
		Osqueryd: osqueryd.Path(), Root: filepath.Join(dir, "root"), From: 1}))
	messages := bufio.NewScanner(stdout)
	for ticking := false; !ticking && messages.Scan(); {
		ticking = strings.Contains(messages.Text(), tlstrial.KindTicks)
	}
	must(t, stdout.Close())
	srv.SetFault(l.count)
	go func() { l.exited <- agent.Wait() }()
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// count holds up no batch for longer than its call takes.
func (l *lonely) count(_ remoteapitest.Call, r *http.Request) remoteapitest.Fault {
	if strings.HasPrefix(r.Header.Get(remoteapi.HeaderBatch), "queue=results") {
		select {
		case l.batches <- struct{}{}:
		case <-r.Context().Done():
		}
	}
	return nil
}

// TestAgentOutlivesItsListener: when the process that watches it is killed, the agent
// stops in good order, although nobody reads what it says.
func TestAgentOutlivesItsListener(t *testing.T) {
	l := newLonely(t)
	// An instance sends no second batch before it has tried to tell of the first.
	for range len(tlstrial.Names()) + 1 {
		select {
		case <-l.batches:
		case err := <-l.exited:
			t.Fatalf("the agent has ended: %v\n%s", err, &l.stderr)
		}
	}
	must(t, l.stop())
	for {
		select {
		case <-l.batches:
		case err := <-l.exited:
			if err != nil {
				t.Errorf("%v\n%s", err, &l.stderr)
			}
			return
		}
	}
}
