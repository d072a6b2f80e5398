package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	lookEvery = 100 * time.Millisecond
	patience  = time.Minute // for all to be well
)

// look calls the health endpoint, as whoever watches the host does, until it reports that all
// is well, and waits until the time is over. Ctrl-C after that is as good an end as any.
func look(ctx context.Context, length time.Duration, h *host) error {
	over := time.NewTimer(length)
	defer over.Stop()
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := untilHealthy(bounded, h); err != nil {
		return errors.Join(err, h.runner.Healthy().Err()) // which has the reason
	}
	h.say("host: all is well")
	select {
	case <-over.C:
	case <-ctx.Done():
	}
	return nil
}

// untilHealthy also waits until every instance has answered the worker.
func untilHealthy(ctx context.Context, h *host) error {
	address := "http://" + h.listener.Addr().String() + "/healthz"
	h.say("host: looking at %s", address)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for last := 0; ; {
		status, body, err := get(ctx, address)
		if err != nil {
			return err
		}
		if status != last {
			last = status
			h.say("host: status %d: %s", status, body)
		}
		if status == http.StatusOK && h.allAnswered() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func get(ctx context.Context, address string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return 0, nil, fmt.Errorf("health endpoint: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, bytes.TrimSpace(body), err
}

// sayer writes lines from many goroutines, one at a time.
func sayer(out io.Writer) func(format string, args ...any) {
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(out, format+"\n", args...) // only for the eye
	}
}
