package thriftconn

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

type handlerFunc func(ctx context.Context, registry, item string, request map[string]string) osquery.ExtensionResponse

func (f handlerFunc) Call(ctx context.Context, registry, item string, request map[string]string) osquery.ExtensionResponse {
	return f(ctx, registry, item, request)
}

func (handlerFunc) Shutdown() {}

func okResponse() osquery.ExtensionResponse { return osquery.ExtensionResponse{Status: okStatus()} }

// echo answers a call with what it was asked.
func echo(_ context.Context, registry, item string, request map[string]string) osquery.ExtensionResponse {
	return osquery.ExtensionResponse{
		Status:   &osquery.ExtensionStatus{Code: 3, Message: "three", UUID: 5},
		Response: []map[string]string{{"registry": registry, "item": item}, request, {}},
	}
}

// startServer serves until the test ends.
func startServer(t testing.TB, h Handler, opts ...ServerOption) (s *Server, path string) {
	t.Helper()
	path = socketPath(t)
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s = NewServer(h, opts...)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := s.Close(testhelp.Context(t)); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s, path
}

// generatedClient is the client that osquery-go uses, over a buffer.
func generatedClient(t testing.TB, path string) *osquery.ExtensionManagerClient {
	t.Helper()
	nc, err := dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	trans := thrift.NewTBufferedTransport(thrift.NewTSocketFromConnConf(nc, &thrift.TConfiguration{}), 4096)
	return osquery.NewExtensionManagerClientFactory(trans, thrift.NewTBinaryProtocolFactoryConf(&thrift.TConfiguration{}))
}

func TestServerAgainstGeneratedClient(t *testing.T) {
	testhelp.CheckLeaks(t)
	_, path := startServer(t, handlerFunc(echo))
	client := generatedClient(t, path)
	ctx := testhelp.Context(t)
	for range 2 {
		status, err := client.Ping(ctx)
		if err != nil || status.Code != 0 || status.Message != "OK" {
			t.Fatalf("ping: %v, %v", status, err)
		}
		request := map[string]string{"string": strings.Repeat("x", 200000), "category": "event", "": ""}
		got, err := client.Call(ctx, "logger", "mine", request)
		if err != nil {
			t.Fatal(err)
		}
		want := echo(ctx, "logger", "mine", request)
		if d := cmp.Diff(&want, got); d != "" {
			t.Fatal(d)
		}
		if _, err := client.Query(ctx, "select 1"); !isUnknownMethod(err) {
			t.Fatalf("an unknown method got %v", err)
		}
		if err := client.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func isUnknownMethod(err error) bool {
	var app thrift.TApplicationException
	return errors.As(err, &app) && app.TypeId() == thrift.UNKNOWN_METHOD
}

func TestServerAgainstOurClient(t *testing.T) {
	testhelp.CheckLeaks(t)
	_, path := startServer(t, handlerFunc(echo))
	c, err := Dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
	request := map[string]string{"action": "genConfig"}
	status, rows, err := c.Call(testhelp.Context(t), "config", "mine", request)
	want := echo(t.Context(), "config", "mine", request)
	if err != nil || status != *want.Status || !cmp.Equal(rows, []map[string]string(want.Response)) {
		t.Fatalf("%v %v %v", status, rows, err)
	}
	if err := generatedClient(t, path).Shutdown(testhelp.Context(t)); err != nil {
		t.Fatal(err)
	}
	var app *ApplicationError
	if _, err := c.Extensions(testhelp.Context(t)); !errors.As(err, &app) || app.Type != exceptionUnknownMethod {
		t.Fatalf("got %v", err)
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatal(err)
	}
}

func TestServerSendsLargeAnswersInParts(t *testing.T) {
	testhelp.CheckLeaks(t)
	rows := sampleRows(4000)
	_, path := startServer(t, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
		return *rowsResponse(rows...)
	}))
	got, err := generatedClient(t, path).Call(testhelp.Context(t), "table", "t", nil)
	if err != nil || !cmp.Equal([]map[string]string(got.Response), rows) {
		t.Fatalf("the answer arrived changed: %v", err)
	}
}

func TestServerReplacesAnAnswerThatIsTooLarge(t *testing.T) {
	testhelp.CheckLeaks(t)
	_, path := startServer(t, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
		return *rowsResponse(sampleRows(100)...)
	}), serverMaxMessage(2000))
	got, err := generatedClient(t, path).Call(testhelp.Context(t), "table", "t", nil)
	if err != nil || got.Status.Code != codeFailed || !strings.Contains(got.Status.Message, "exceeds the limit") {
		t.Fatalf("got %v, %v", got, err)
	}
}

// logged sends the values of what is logged.
type logged struct {
	slog.Handler
	records chan string
}

func (h logged) Enabled(context.Context, slog.Level) bool { return true }

func (h logged) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		h.records <- a.Value.String()
		return true
	})
	return nil
}

func TestServerGivesUpOnAPeerThatDoesNotRead(t *testing.T) {
	testhelp.CheckLeaks(t)
	log := logged{slog.DiscardHandler, make(chan string, 9)}
	_, path := startServer(t, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
		return *rowsResponse(map[string]string{"large": strings.Repeat("x", 8<<20)})
	}), serverWriteTimeout(10*time.Millisecond), WithServerLogger(slog.New(log)))
	nc, err := dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	sendCall(t, nc)
	select {
	case text := <-log.records:
		if !strings.Contains(text, "send the answer") {
			t.Fatalf("logged %q", text)
		}
	case <-testhelp.Context(t).Done():
		t.Fatal("the server still waits")
	}
}

func TestServerSurvivesPanics(t *testing.T) {
	testhelp.CheckLeaks(t)
	type report struct {
		value any
		stack string
	}
	reports := make(chan report, 1)
	_, path := startServer(t, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
		panic("out of cheese")
	}), OnPanic(func(value any, stack []byte) {
		reports <- report{value, string(stack)}
		panic("the hook too")
	}))
	client := generatedClient(t, path)
	got, err := client.Call(testhelp.Context(t), "table", "t", nil)
	if err != nil || got.Status.Code != codeFailed || !strings.Contains(got.Status.Message, "out of cheese") {
		t.Fatalf("got %v, %v", got, err)
	}
	r := <-reports
	if r.value != "out of cheese" || !strings.Contains(r.stack, "TestServerSurvivesPanics") {
		t.Fatalf("reported %v at %s", r.value, r.stack)
	}
	if _, err := client.Ping(testhelp.Context(t)); err != nil {
		t.Fatal(err)
	}
}

func TestServerAnswersWithoutStatusAreFailures(t *testing.T) {
	testhelp.CheckLeaks(t)
	_, path := startServer(t, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
		return osquery.ExtensionResponse{}
	}))
	got, err := generatedClient(t, path).Call(testhelp.Context(t), "table", "t", nil)
	if err != nil || got.Status.Code != codeFailed {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestServerClosesOnRubbish(t *testing.T) {
	testhelp.CheckLeaks(t)
	_, path := startServer(t, handlerFunc(echo), serverMaxMessage(1000))
	huge := appendHeader(nil, messageCall, methodCall, 1)
	huge = appendI32(appendField(huge, typeString, 1), 1<<30)
	for name, sent := range map[string][]byte{
		"http":        []byte("GET / HTTP/1.1\r\n\r\n"),
		"reply":       appendStop(appendHeader(nil, messageReply, methodPing, 1)),
		"huge string": huge,
		"version":     {0x80, 0x02, 0, 1},
	} {
		nc, err := dial(testhelp.Context(t), path)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = nc.Write(sent)
		_ = nc.SetReadDeadline(time.Now().Add(testhelp.Patience))
		if n, err := nc.Read(make([]byte, 1)); n != 0 || isTimeout(err) {
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
		_ = nc.Close()
	}
}

func TestServerAnswersPipelinedRequestsInOrder(t *testing.T) {
	testhelp.CheckLeaks(t)
	_, path := startServer(t, handlerFunc(echo))
	nc, err := dial(testhelp.Context(t), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	out := appendStop(appendHeader(nil, messageOneway, methodPing, 8)) // gets no answer
	for seq := range int32(3) {
		out = appendStop(appendHeader(out, messageCall, methodPing, seq))
	}
	if _, err := nc.Write(out); err != nil {
		t.Fatal(err)
	}
	var r reader
	r.reset(nc, 1000)
	for seq := range int32(3) {
		r.begin()
		if h := r.header(); h.seq != seq || h.kind != messageReply {
			t.Fatalf("answer %+v to call %d", h, seq)
		}
		r.skip(typeStruct)
	}
	if r.err != nil {
		t.Fatal(r.err)
	}
}
