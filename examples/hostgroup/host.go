package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/osqvisor/osqvisor/runtime"
)

const (
	askEvery     = 500 * time.Millisecond
	askTimeout   = 10 * time.Second
	closeTimeout = 5 * time.Second
)

// host is a program with several parts, of which the instances of osqueryd are one.
type host struct {
	runner   *runtime.Runner
	listener net.Listener
	say      func(format string, args ...any)
	patience time.Duration // for an answer to the worker

	answered sync.Map // the ids of instances that answered the worker
}

// run keeps all parts going until ctx ends or one of them fails; then it ends the
// others and waits for them. Runner.Run fits in as it is: it returns nil when it was
// requested to stop, and only when nothing of it is left. No failure of an instance ends
// it, so a broken osqueryd does not take the host along.
func (h *host) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return h.runner.Run(ctx) })
	group.Go(func() error { return h.serveHealth(ctx) })
	group.Go(func() error { return h.work(ctx) })
	return group.Wait()
}

// work stands for what else the host does: it queries every instance, now and then. An
// instance that cannot answer is no reason to stop.
func (h *host) work(ctx context.Context) error {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for {
		for _, id := range h.runner.IDs() {
			h.ask(ctx, id)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (h *host) ask(ctx context.Context, id string) {
	bounded, cancel := context.WithTimeout(ctx, h.patience)
	defer cancel()
	rows, err := h.runner.Query(bounded, id, "select version from osquery_info")
	switch {
	case err == nil:
		version := rows.Row(0).Get("version")
		h.say("worker: %s answers, it is osquery %s", id, version)
		h.answered.Store(id, true)
	case ctx.Err() == nil: // the host is not about to end
		h.say("worker: %s does not answer: %v", id, err)
	}
}

// serveHealth answers GET /healthz until ctx ends.
func (h *host) serveHealth(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", h.health)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: closeTimeout}
	closed := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		closed <- errors.Join(server.Shutdown(bounded), server.Close())
	})
	err := server.Serve(h.listener)
	if stop() {
		return fmt.Errorf("health endpoint: %w", err) // nobody ended it
	}
	return <-closed
}

// health returns the Runner's own summary: which instances are not well, and why.
func (h *host) health(w http.ResponseWriter, _ *http.Request) {
	summary := h.runner.Healthy()
	w.Header().Set("Content-Type", "application/json")
	if !summary.Healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(summary) // a client that went away calls again
}

// allAnswered reports whether the worker had an answer from every instance.
func (h *host) allAnswered() bool {
	for _, id := range h.runner.IDs() {
		if _, ok := h.answered.Load(id); !ok {
			return false
		}
	}
	return true
}
