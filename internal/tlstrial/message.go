package tlstrial

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
)

// TableName is the agent's table of numbers, and the name of the scheduled query that logs it.
const TableName = "ticks"

// Names returns the instances of the agent.
func Names() []string { return []string{"vendor", "tenant-a", "tenant-b"} }

// HostIdentifier returns the name under which an instance enrols.
func HostIdentifier(instance string) string {
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	return name + "-" + instance
}

// NumberOf returns the number in a line that osqueryd logged for the table.
func NumberOf(line []byte) (uint64, bool) {
	var l struct {
		Name    string            `json:"name"`
		Columns map[string]string `json:"columns"`
	}
	if err := json.Unmarshal(line, &l); err != nil || l.Name != TableName {
		return 0, false
	}
	n, err := strconv.ParseUint(l.Columns["n"], 10, 64)
	return n, err == nil
}

// The kinds of message that the agent writes to its stdout, one JSON object a line.
const (
	KindReady    = "ready"    // an osqueryd is ready: Instance, PID
	KindTicks    = "ticks"    // osqueryd was handed the numbers First to Last: Instance, Run
	KindBatch    = "batch"    // the server accepted a batch: Instance, Batch, Lines
	KindResults  = "results"  // the server accepted results of distributed queries: Instance, Count
	KindEnrolled = "enrolled" // the server issued a node key: Instance, Again
)

// Message reports one thing that happened in the agent. What was written before a
// SIGKILL is in the pipe and is read after it.
type Message struct {
	Kind     string   `json:"kind"`
	Instance string   `json:"instance"`
	Run      string   `json:"run,omitempty"`
	PID      int      `json:"pid,omitempty"`
	First    uint64   `json:"first,omitempty"`
	Last     uint64   `json:"last,omitempty"`
	Batch    string   `json:"batch,omitempty"`
	Lines    []uint64 `json:"lines,omitempty"`
	Count    int      `json:"count,omitempty"`
	Again    bool     `json:"again,omitempty"`
}

// Orders are what the agent reads from its stdin: once with everything, then with
// Pause alone. The end of stdin is the order to stop.
type Orders struct {
	Server     string `json:"server,omitempty"`
	CA         string `json:"ca,omitempty"`
	SecretPath string `json:"secret_path,omitempty"`
	Osqueryd   string `json:"osqueryd,omitempty"`
	Root       string `json:"root,omitempty"`
	// From is the number of the first line.
	From uint64 `json:"from,omitempty"`
	// Pause ends the numbers: the table stays as it is, so nothing new is logged.
	Pause bool `json:"pause,omitempty"`
}

// Sender writes messages, each in one piece. It is safe for concurrent use.
type Sender struct {
	mu sync.Mutex
	w  io.Writer
}

// NewSender returns a Sender to w.
func NewSender(w io.Writer) *Sender { return &Sender{w: w} }

// Send returns the error of the writer: nobody may be reading any more.
func (s *Sender) Send(m Message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("message %s: %w", m.Kind, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.w.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("message %s: %w", m.Kind, err)
	}
	return nil
}
