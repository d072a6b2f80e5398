//go:build unix

package instance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// hanging is a program that prints once the file is there that it waits for.
func hanging(t *testing.T) (p probe, proceed func()) {
	t.Helper()
	dir := t.TempDir()
	fifo, path := filepath.Join(dir, "fifo"), filepath.Join(dir, "osqueryd")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nread line <"+fifo+"\necho $line\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return probe{path: path, timeout: time.Minute}, func() {
		if err := os.WriteFile(fifo, []byte("done\n"), 0); err != nil { // returns when it is read
			t.Error(err)
		}
	}
}

// Who waits for the same execution shares it. It goes on while one of them waits.
func TestTrial22WaitersShareAnExecution(t *testing.T) {
	var c binaryChecks
	p, proceed := hanging(t)
	_, first := c.join("k", "file", p)
	_, second := c.join("k", "file", p)
	if first == nil || first != second {
		t.Fatal("the second execution of the same is one of its own")
	}
	c.leave(first)
	proceed()
	<-second.done
	if got := string(second.answer.out); got != "done\n" || second.answer.err != nil {
		t.Errorf("who went on waiting has %q, %v", got, second.answer.err)
	}
	if _, f := c.join("k", "file", p); f == nil { // its file is another than "file"
		t.Error("an answer was kept although the file changed meanwhile")
	} else {
		c.leave(f)
	}
}

// The last one who gives up ends it, and finds nothing left.
func TestTrial22LastWaiterEndsTheExecution(t *testing.T) {
	var c binaryChecks
	p, _ := hanging(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, f := c.join("other", "", p)
	c.leave(f)
	select {
	case <-f.done:
	default:
		t.Error("the execution goes on")
	}
	cancel()
	if _, err := c.run(ctx, p); !errors.Is(err, context.Canceled) {
		t.Errorf("a call that was given up: %v, want context.Canceled", err)
	}
	if len(c.flights) > 0 || len(c.answers) > 0 {
		t.Errorf("kept: %d executions, %d answers, want none", len(c.flights), len(c.answers))
	}
}
