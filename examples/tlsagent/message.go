package main

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// The kinds of message that the agent writes to its stdout, one JSON object a line.
const (
	saysReady    = "ready"    // an osqueryd answers: Instance, PID
	saysTicks    = "ticks"    // osqueryd was handed the numbers First to Last: Instance, Run
	saysBatch    = "batch"    // the server took a batch: Instance, Batch, Lines
	saysResults  = "results"  // the server took results of distributed queries: Instance, Count
	saysEnrolled = "enrolled" // the server gave a node key: Instance, Again
)

// message is what the agent tells of what it does. What was written before a
// SIGKILL is in the pipe and is read after it.
type message struct {
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

// orders are what the agent is told on its stdin: once with everything, then with
// Pause alone. The end of stdin is the order to stop.
type orders struct {
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

// teller writes messages, each in one piece. It is safe for concurrent use.
type teller struct {
	mu sync.Mutex
	w  io.Writer
}

func (t *teller) tell(m message) error {
	text, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("message %s: %w", m.Kind, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.w.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("message %s: %w", m.Kind, err)
	}
	return nil
}
