package thriftconn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// socketPath returns a path that is short enough for every system.
func socketPath(t testing.TB) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		return fmt.Sprintf(`\\.\pipe\thriftconn-%d-%s`, os.Getpid(), strings.ReplaceAll(t.Name(), "/", "-"))
	}
	return filepath.Join(testhelp.Root(t), "s")
}

// accepting serves each connection of a listener in a goroutine until the test
// ends.
func accepting(t testing.TB, l net.Listener, serve func(net.Conn)) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, nc)
			mu.Unlock()
			wg.Go(func() {
				defer func() { _ = nc.Close() }()
				serve(nc)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, nc := range conns {
			_ = nc.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// serveGenerated runs the processor that the Thrift compiler made, as
// osquery-go does, over a buffered transport.
func serveGenerated(p thrift.TProcessor) func(net.Conn) {
	return func(nc net.Conn) {
		conf := &thrift.TConfiguration{}
		trans := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(nc, conf), 4096)
		proto := thrift.NewTBinaryProtocolConf(trans, conf)
		for {
			ok, err := p.Process(context.Background(), proto, proto)
			var gone thrift.TTransportException
			if !ok || errors.As(err, &gone) {
				return
			}
		}
	}
}

// fakeManager is osqueryd's side, on the generated processor.
type fakeManager struct {
	query    func(sql string) *osquery.ExtensionResponse
	register func(info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry) *osquery.ExtensionStatus

	mu           sync.Mutex
	deregistered []osquery.ExtensionRouteUUID
}

var errFake = errors.New("fake failure")

func okStatus() *osquery.ExtensionStatus { return &osquery.ExtensionStatus{Code: 0, Message: "OK"} }

func (f *fakeManager) Ping(context.Context) (*osquery.ExtensionStatus, error) { return okStatus(), nil }

func (f *fakeManager) Call(
	_ context.Context, registry, item string, request osquery.ExtensionPluginRequest,
) (*osquery.ExtensionResponse, error) {
	if registry == "throw" {
		return nil, errFake
	}
	row := map[string]string{"registry": registry, "item": item}
	for k, v := range request {
		row["request."+k] = v
	}
	return &osquery.ExtensionResponse{
		Status:   &osquery.ExtensionStatus{Code: 7, Message: "seven", UUID: 9},
		Response: []map[string]string{row},
	}, nil
}

func (f *fakeManager) Shutdown(context.Context) error { return nil }

func (f *fakeManager) Extensions(context.Context) (osquery.InternalExtensionList, error) {
	return osquery.InternalExtensionList{
		0:  {Name: "core", Version: "5.23.0", SdkVersion: "0.0.0", MinSdkVersion: "0.0.0"},
		42: {Name: "ours", Version: "1.2.3"},
	}, nil
}

func (f *fakeManager) Options(context.Context) (osquery.InternalOptionList, error) {
	return osquery.InternalOptionList{"verbose": {Value: "true", DefaultValue: "false", Type: "bool"}}, nil
}

func (f *fakeManager) RegisterExtension(
	_ context.Context, info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry,
) (*osquery.ExtensionStatus, error) {
	return f.register(info, reg), nil
}

func (f *fakeManager) DeregisterExtension(_ context.Context, uuid osquery.ExtensionRouteUUID) (*osquery.ExtensionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deregistered = append(f.deregistered, uuid)
	if uuid == 404 {
		return &osquery.ExtensionStatus{Code: 1, Message: "No extension UUID found"}, nil
	}
	return okStatus(), nil
}

func (f *fakeManager) Query(_ context.Context, sql string) (*osquery.ExtensionResponse, error) {
	return f.query(sql), nil
}

func (f *fakeManager) GetQueryColumns(_ context.Context, sql string) (*osquery.ExtensionResponse, error) {
	return rowsResponse(map[string]string{"name": "x", "type": "TEXT", "sql": sql}), nil
}

func rowsResponse(rows ...map[string]string) *osquery.ExtensionResponse {
	return &osquery.ExtensionResponse{Status: okStatus(), Response: rows}
}

// startFake serves a fake manager until the test ends and returns its path.
func startFake(t testing.TB, f *fakeManager) string {
	t.Helper()
	path := socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	accepting(t, l, serveGenerated(osquery.NewExtensionManagerProcessor(f)))
	return path
}

// dialFake connects to a fake manager.
func dialFake(t testing.TB, f *fakeManager, opts ...Option) *Conn {
	t.Helper()
	c, err := Dial(testhelp.Context(t), startFake(t, f), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ping is the shortest call there is.
func ping(ctx context.Context, c *Conn) error {
	_, err := c.statusCall(ctx, methodPing, noArgs)
	return err
}

// queryEach is QueryQueue.QueryEach on a connection.
func queryEach(ctx context.Context, c *Conn, sql string, fn func(Row) error) error {
	return c.call(ctx, methodQuery, eachExchange(methodQuery, sql, fn))
}

// mapsOf returns all rows as maps, without their absent cells.
func mapsOf(r Rows) []map[string]string {
	out := make([]map[string]string, r.Len())
	for i, row := range r.All() {
		out[i] = row.Map()
	}
	return out
}

// cell returns the one cell of an answer; empty when there is none.
func cell(r Rows) string {
	for _, value := range r.View(0).All() {
		return value
	}
	return ""
}

func serverMaxMessage(n int) ServerOption { return func(o *serverOptions) { o.maxMessage = n } }

func serverWriteTimeout(d time.Duration) ServerOption {
	return func(o *serverOptions) { o.writeTimeout = d }
}
