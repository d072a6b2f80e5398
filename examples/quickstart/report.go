package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// errInterrupted says that Ctrl-C came before the tour was over.
var errInterrupted = errors.New("interrupted before the tour was over")

// report is what the tour found. Each number is measured.
type report struct {
	Osqueryd   string `json:"osqueryd"` // a path, or "fake"
	Version    string `json:"version"`
	Instances  int    `json:"instances"` // that were ready and answered a query
	Restarts   uint64 `json:"restarts"`  // of all of them
	Untouched  bool   `json:"untouched"` // the others kept run, watcher and worker while one was killed
	Queries    int    `json:"queries"`   // that were answered
	RecoveryMS int64  `json:"recovery_ms"`
	Orphans    int    `json:"orphans"` // processes that were seen and still run at the end
	OK         bool   `json:"ok"`
	Error      string `json:"error,omitempty"`

	interrupted bool
}

// conclude decides whether all went as it should.
func (r *report) conclude(err error) {
	r.interrupted = errors.Is(err, errInterrupted)
	if err != nil {
		r.Error = err.Error()
	}
	r.OK = err == nil && r.Instances == 3 && r.Restarts == 1 && r.Untouched && r.Queries > 0 && r.Orphans == 0
}

func (r *report) writeJSON(w io.Writer) error {
	if err := json.NewEncoder(w).Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *report) writeText(w io.Writer) error {
	verdict := "all as it should be"
	if !r.OK {
		verdict = "NOT as it should be"
	}
	_, err := fmt.Fprintf(w, "%s: %d instances, %d restart(s), the others untouched: %t, %d queries, recovered in %d ms, %d orphans\n",
		verdict, r.Instances, r.Restarts, r.Untouched, r.Queries, r.RecoveryMS, r.Orphans)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
