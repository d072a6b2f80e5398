package instance_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// A run that began while somebody else shipped takes over when that one stops.
func TestRunTakesOverShipping(t *testing.T) {
	t.Parallel()
	server := extension.NewMemory()
	server.SetConfig("vendor", map[string]string{"main": `{"schedule":{"always": {"query": "select 1", "interval": 1, "snapshot": true}}}`})
	in := newInstance(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path(), instance.WithTransport(server),
		instance.WithLogs(extension.Logs{BatchLines: 1, BatchAge: 10 * time.Millisecond}))
	shipping, endShipping := context.WithCancel(patient(t))
	shipped := make(chan error, 1)
	go func() { shipped <- in.Ship(shipping) }()
	eventually(t, "Ship has the directory", func() bool {
		_, err := os.Lstat(filepath.Join(in.Directory(), "lock"))
		return err == nil
	})
	ctx, stop := context.WithCancel(context.Background()) // the end of a run delivers everything
	defer stop()
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }()
	waitLogs(t, server, extension.QueueSnapshots, 1)
	endShipping()
	if err := <-shipped; err != nil {
		t.Errorf("Ship gave %v", err)
	}
	n := len(server.Logs("vendor", extension.QueueSnapshots))
	waitLogs(t, server, extension.QueueSnapshots, n+2)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A Ship that ends as it begins, as between two runs that follow each other at once, takes nothing with it: neither the
// directory nor the place of the one that ships.
func TestTrial19ShipThatEndsAsItBegins(t *testing.T) {
	t.Parallel()
	var end context.CancelFunc
	in := newInstance(t, osquerydtest.Start(t).Path(), instance.WithTransport(extension.NewMemory()),
		instance.WithDiskHook(func(what string) {
			if what == "opening it" {
				end()
			}
		}))
	for range 50 {
		var ctx context.Context
		ctx, end = context.WithCancel(patient(t))
		err := in.Ship(ctx)
		end()
		if err != nil {
			t.Fatalf("Ship returned %v", err)
		}
	}
	if err := in.Close(patient(t)); err != nil {
		t.Error(err)
	}
}
