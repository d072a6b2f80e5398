package bench

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/thriftconn"
)

// pluginName is what the floor's and the plain host's plugins are registered as.
const pluginName = "bench"

// least is the least that has osqueryd run on an extension: it registers as soon
// as the socket answers, serves an empty config and forgets what is logged.
type least struct {
	*bare
	conn   *thriftconn.Conn
	server *thriftconn.Server
	served chan struct{}
}

// startLeast returns when osqueryd has taken the registration.
func (e *Env) startLeast(ctx context.Context, o spawnOptions) (*least, error) {
	o.plugin = pluginName
	b, err := e.spawn(o)
	if err != nil {
		return nil, err
	}
	l := &least{bare: b, served: make(chan struct{})}
	if err := l.register(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("the floor: %w", err), b.kill())
	}
	return l, nil
}

func (l *least) register(ctx context.Context) error {
	nc, err := l.dial(ctx)
	if err != nil {
		return err
	}
	l.conn = thriftconn.NewConn(nc)
	uuid, err := l.conn.Register(ctx, pluginName, "1", leastRegistry())
	if err != nil {
		return err
	}
	ln, err := thriftconn.Listen(fmt.Sprintf("%s.%d", l.socket, uuid))
	if err != nil {
		return err
	}
	l.serve(ln)
	return nil
}

func (l *least) serve(ln net.Listener) {
	l.server = thriftconn.NewServer(forgetful{})
	go func() {
		defer close(l.served)
		_ = l.server.Serve(ln)
	}()
}

// close kills osqueryd and releases everything.
func (l *least) close() error {
	err := l.kill()
	_ = l.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if cerr := l.server.Close(ctx); cerr != nil {
		return cerr
	}
	<-l.served
	return err
}

func leastRegistry() osquery.ExtensionRegistry {
	plugin := osquery.ExtensionRouteTable{pluginName: {}}
	return osquery.ExtensionRegistry{"config": plugin, "logger": plugin}
}

// forgetful is a config that is empty and a logger that stores nothing.
type forgetful struct{}

// Call answers at once.
func (forgetful) Call(_ context.Context, registry, _ string, _ map[string]string) osquery.ExtensionResponse {
	r := osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Message: "OK"}}
	if registry == "config" {
		r.Response = []map[string]string{{pluginName: "{}"}}
	}
	return r
}

// Shutdown does nothing.
func (forgetful) Shutdown() {}
