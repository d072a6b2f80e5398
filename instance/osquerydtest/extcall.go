package osquerydtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"
)

// noContext: osqueryd cannot cancel a call; deadlines are on the connection.
func noContext() context.Context { return context.Background() }

// extClient is one connection to an extension.
type extClient struct {
	conn   net.Conn
	client *osquery.ExtensionClient
	undo   func() bool
}

func (c *extClient) close() {
	c.undo()
	_ = c.conn.Close()
}

func (r *registry) socketOf(uuid osquery.ExtensionRouteUUID) string {
	return fmt.Sprintf("%s.%d", r.w.p.flags.str("extensions_socket"), uuid)
}

// dial connects to an extension. timeout bounds the whole connection; 0 is
// thrift_timeout.
func (r *registry) dial(uuid osquery.ExtensionRouteUUID, timeout time.Duration) (*extClient, error) {
	p := r.w.p
	if timeout == 0 {
		timeout = p.flags.seconds("thrift_timeout")
	}
	timeout = p.script.deadline(timeout)
	conn, err := dialPipe(r.socketOf(uuid), timeout)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(timeout))
	// A process played by goroutines must not outlive its end in a call.
	undo := context.AfterFunc(p.deadCtx, func() { _ = conn.Close() })
	trans := thrift.NewTBufferedTransport(rawTransport{conn}, 4096)
	proto := thrift.NewTBinaryProtocolFactoryConf(nil)
	client := osquery.NewExtensionClientFactory(trans, proto)
	return &extClient{conn: conn, client: client, undo: undo}, nil
}

// ping is the watcher's bare ping.
func (r *registry) ping(uuid osquery.ExtensionRouteUUID) error {
	return r.pingWithin(uuid, 0)
}

func (r *registry) pingWithin(uuid osquery.ExtensionRouteUUID, timeout time.Duration) error {
	c, err := r.dial(uuid, timeout)
	if err != nil {
		return err
	}
	defer c.close()
	st, err := c.client.Ping(noContext())
	if err == nil && osquery.ExtensionCode(st.Code) != osquery.ExtensionCode_EXT_SUCCESS {
		err = fmt.Errorf("ping failed: %s", st.Message)
	}
	return err
}

// pingExtension is the check before each call: 10 s, and a text of its own.
func (r *registry) pingExtension(uuid osquery.ExtensionRouteUUID) error {
	if r.pingWithin(uuid, 10*time.Second) != nil {
		return fmt.Errorf("Extension socket not available: %s", r.socketOf(uuid)) //nolint:staticcheck // osqueryd's text
	}
	return nil
}

// result is a plugin's answer.
type result struct {
	code    int32
	message string
	rows    osquery.ExtensionPluginResponse
}

func failure(format string, args ...any) result {
	return result{code: 1, message: fmt.Sprintf(format, args...)}
}

func (s result) err() error {
	if s.code == 0 {
		return nil
	}
	return errors.New(s.message)
}

// call asks a plugin, core's own or an extension's.
func (r *registry) call(reg, name string, req map[string]string) result {
	if e, ok := r.owner(reg, name); ok {
		return r.callExtension(e.uuid, reg, name, req)
	}
	return r.callBuiltin(reg, name, req)
}

// callExtension uses two connections, as core does: a ping, then the call.
func (r *registry) callExtension(uuid osquery.ExtensionRouteUUID, reg, name string, req map[string]string) result {
	r.w.count.extCalls.Add(1)
	if err := r.pingExtension(uuid); err != nil {
		r.w.count.extFailures.Add(1)
		return failure("%s", err)
	}
	c, err := r.dial(uuid, 0)
	if err != nil {
		r.w.count.extFailures.Add(1)
		return failure("Extension call failed: %s", err)
	}
	defer c.close()
	resp, err := c.client.Call(noContext(), reg, name, req)
	if err != nil || resp.Status == nil {
		r.w.count.extFailures.Add(1)
		return failure("Extension call failed: %v", err)
	}
	return result{code: resp.Status.Code, message: resp.Status.Message, rows: resp.Response}
}

// callActive asks the active plugin of a registry.
func (r *registry) callActive(reg string, req map[string]string) result {
	return r.call(reg, r.activeName(reg), req)
}

// rawTransport is a net.Conn as Thrift wants it, without the liveness checks
// of thrift's own socket.
type rawTransport struct{ net.Conn }

func (rawTransport) Flush(context.Context) error { return nil }
func (rawTransport) IsOpen() bool                { return true }
func (rawTransport) Open() error                 { return nil }
func (rawTransport) RemainingBytes() uint64      { return ^uint64(0) }
