package soak_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/runtime"
)

// hostConfig is what the host is told on its stdin, which stays open for as long as
// it is to live.
type hostConfig struct {
	Server, CA, Secret string
	Binary, Root       string
	Instances          []string
}

// runHost is the process that is killed: it knows nothing of the test.
func runHost(stdin io.Reader) error {
	var cfg hostConfig
	dec := json.NewDecoder(stdin)
	if err := dec.Decode(&cfg); err != nil {
		return fmt.Errorf("its config: %w", err)
	}
	trust, err := remoteapi.TLSConfig{RootCAFile: cfg.CA}.Build()
	if err != nil {
		return err
	}
	client, err := remoteapi.New(cfg.Server, remoteapi.WithTLS(trust),
		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: cfg.Secret}),
		remoteapi.WithLimits(remoteapi.Limits{Timeout: 10 * time.Second}))
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	runner, err := runtime.New(hostOptions(cfg, client)...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // ends with the test, however that ends
		cancel()
	}()
	return runner.Run(ctx)
}

func hostOptions(cfg hostConfig, client *remoteapi.Client) []runtime.Option {
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("OSQVISOR_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	opts := []runtime.Option{
		runtime.WithBinary(cfg.Binary), runtime.WithRoot(cfg.Root), runtime.WithTransport(client), runtime.WithLogger(log),
		// Kills are the point: they must neither park an instance nor make the soak wait.
		runtime.WithRestart(runtime.RestartPolicy{Initial: 20 * time.Millisecond, Max: 200 * time.Millisecond, Budget: -1}),
		runtime.WithInstanceDefaults(
			instance.WithDistributed(extension.Distributed{Interval: -1}),
			instance.WithLogs(extension.Logs{
				BatchLines: 200, BatchBytes: 32 << 10, BatchAge: 20 * time.Millisecond,
				Delivery: extension.Delivery{FirstWait: 5 * time.Millisecond, LongestWait: 50 * time.Millisecond},
			}),
		),
	}
	for _, id := range cfg.Instances {
		opts = append(opts, runtime.WithInstance(id, instance.WithHostIdentifier(id)))
	}
	return opts
}

// host is the living host process of a test, one after the other.
type host struct {
	t   *testing.T
	cfg []byte

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

func newHost(t *testing.T, cfg hostConfig) *host {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, cfg: text}
	if err := h.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.kill() }) // for a test that failed before it stopped it
	return h
}

func (h *host) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	cmd := exec.Command(os.Args[0], hostArgument)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	h.cmd, h.stdin = cmd, stdin
	_, err = stdin.Write(h.cfg)
	return err
}

// kill is kill -9.
func (h *host) kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cmd == nil {
		return nil
	}
	err := h.cmd.Process.Kill()
	_ = h.cmd.Wait() // says that it was killed
	h.cmd = nil
	return err
}

// stop ends it as a service manager would, and gives what it made of it.
func (h *host) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.stdin.Close()
	err := h.cmd.Wait()
	h.cmd = nil
	return err
}
