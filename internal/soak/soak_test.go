package soak_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/internal/soak"
	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// size says how much a soak does.
type size struct {
	lines                    int // of all instances
	osquerydKills, hostKills int
	patience                 time.Duration
}

// soakSize is small in the ordinary tests, and whole where OSQVISOR_SOAK says so:
// 1, or the number of lines.
func soakSize(t *testing.T) size {
	t.Helper()
	text := os.Getenv("OSQVISOR_SOAK")
	if text == "" || text == "0" {
		return size{lines: 3000, osquerydKills: 5, hostKills: 2, patience: 2 * time.Minute}
	}
	lines, err := strconv.Atoi(text)
	if err != nil || lines < 1 {
		t.Fatalf("OSQVISOR_SOAK is %q: set it to 1, or to the number of lines", text)
	}
	if lines == 1 {
		lines = 100_000
	}
	return size{lines: lines, osquerydKills: max(5, lines/700), hostKills: max(2, lines/3000), patience: 25 * time.Minute}
}

// TestPromiseSoak: three instances on a server that fails a third of the time, and
// kill -9 of osqueryd and of the host at random. Nothing that osqueryd was told is
// stored is lost, nothing is out of order, and whoever discards batches by id has
// every line once.
func TestPromiseSoak(t *testing.T) {
	how := soakSize(t)
	ctx, cancel := context.WithTimeout(t.Context(), how.patience)
	defer cancel()
	begin := time.Now()

	srv, faults := flakyServer(t)
	fake := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{TimeScale: 0.02}))
	ids := []string{"vendor", "tenant-a", "tenant-b"}
	h := newHost(t, hostConfig{
		Server: srv.URL(), CA: writeCA(t, srv.Certificate()), Secret: srv.EnrollSecret(),
		Binary: fake.Path(), Root: testhelp.Root(t), Instances: ids,
	})
	var written atomic.Int64
	var producers []*producer
	for i, id := range ids {
		lines := how.lines * (i + 1) / len(ids)
		producers = append(producers, newProducer(fake, id, lines-how.lines*i/len(ids), &written))
	}
	trouble := &chaos{size: how, fake: fake, host: h, written: &written}
	wait := startAll(ctx, producers)
	if err := trouble.run(ctx); err != nil {
		t.Error(err)
	}
	for _, err := range wait() {
		t.Error(err)
	}
	waitDelivered(ctx, t, srv, producers)
	if err := h.stop(); err != nil {
		t.Errorf("the host did not stop well: %v", err)
	}
	total := judgeAll(t, srv, producers)
	t.Logf("%d lines, %d delivered, lost %d, duplicates %d, out of order %d; %d batches came again; "+
		"%d kills of osqueryd, %d of the host; %d lines never acknowledged; %d of %d calls failed; %v",
		total.Produced, total.Delivered, total.Lost, total.Duplicates, total.OutOfOrder, total.Repeats,
		trouble.killedOsqueryd, trouble.killedHost, unsure(producers), faults.failed.Load(), faults.calls.Load(),
		time.Since(begin).Round(time.Millisecond))
	if trouble.killedHost < how.hostKills || trouble.killedOsqueryd < how.osquerydKills || total.Repeats == 0 {
		t.Error("too little went wrong: the soak shows nothing")
	}
	if failed, calls := faults.failed.Load(), faults.calls.Load(); failed*6 < calls {
		t.Errorf("only %d of %d calls failed; it should be a third", failed, calls)
	}
}

func judgeAll(t *testing.T, srv *remoteapitest.Server, producers []*producer) soak.Verdict {
	t.Helper()
	var total soak.Verdict
	for _, p := range producers {
		batches, err := delivered(srv, p.id)
		if err != nil {
			t.Errorf("%s: %v", p.id, err)
		}
		v := soak.Judge(p.acked, batches)
		if !v.OK() || len(p.acked) != p.lines {
			t.Errorf("%s: %+v; acknowledged %d of %d", p.id, v, len(p.acked), p.lines)
		}
		total = total.Add(v)
	}
	return total
}

// waitDelivered waits until the last line of each instance that was acknowledged is
// there. Those before it are judged, not waited for: order is promised.
func waitDelivered(ctx context.Context, t *testing.T, srv *remoteapitest.Server, producers []*producer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, p := range producers {
		for !p.isThere(srv) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Errorf("%s: the last line has not come: %v", p.id, ctx.Err())
				return
			}
		}
	}
}

// delivered gives the batches of results that a host delivered, in their order.
func delivered(srv *remoteapitest.Server, id string) ([]soak.Batch, error) {
	var out []soak.Batch
	for _, b := range srv.Batches(id) {
		lines, err := numbers(b, id)
		if err != nil {
			return out, err
		}
		if lines != nil {
			out = append(out, soak.Batch{ID: b.ID, Lines: lines})
		}
	}
	return out, nil
}

// numbers gives the numbers of a batch's lines; nil when it is not of results.
func numbers(b remoteapitest.Batch, id string) ([]uint64, error) {
	if b.Queue != extension.QueueResults {
		return nil, nil
	}
	lines := make([]uint64, 0, len(b.Lines))
	for _, raw := range b.Lines {
		var l line
		if err := json.Unmarshal(raw, &l); err != nil {
			return nil, fmt.Errorf("batch %s has the line %q: %w", b.ID, raw, err)
		}
		if l.Instance != id {
			return nil, fmt.Errorf("batch %s has a line of %s", b.ID, l.Instance)
		}
		lines = append(lines, l.N)
	}
	return lines, nil
}

func writeCA(t *testing.T, cert *x509.Certificate) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
