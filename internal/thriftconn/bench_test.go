package thriftconn

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/osquery/osquery-go/gen/osquery"
)

// replayer answers every query with the same bytes, so that a benchmark
// measures the client. It relies on requests that fit into one read.
func replayer(b *testing.B, canned []byte) string {
	b.Helper()
	seqAt := 4 + 4 + len(methodQuery)
	path := socketPath(b)
	l, err := Listen(path)
	if err != nil {
		b.Fatal(err)
	}
	accepting(b, l, func(nc net.Conn) {
		out, in := append([]byte(nil), canned...), make([]byte, 4096)
		for {
			if _, err := nc.Read(in); err != nil {
				return
			}
			copy(out[seqAt:seqAt+4], in[seqAt:seqAt+4])
			if _, err := nc.Write(out); err != nil {
				return
			}
		}
	})
	return path
}

func benchSizes(b *testing.B, bench func(b *testing.B, path string)) {
	b.Run("select1", func(b *testing.B) { bench(b, replayer(b, sortedAnswer(map[string]string{"1": "1"}))) })
	b.Run("1000x5", func(b *testing.B) { bench(b, replayer(b, sortedAnswer(sampleRows(1000)...))) })
	// Go's own encoders shuffle the cells of every row, osqueryd never does.
	shuffled := encodeAnswer(b, rowsResponse(sampleRows(1000)...), &thrift.TConfiguration{})
	b.Run("1000x5-shuffled", func(b *testing.B) { bench(b, replayer(b, shuffled)) })
}

// sortedAnswer is an answer as osqueryd writes it: the cells in the order of
// their columns' names.
func sortedAnswer(rows ...map[string]string) []byte {
	b := appendListHeader(answerHead(), typeMap, len(rows))
	for _, row := range rows {
		b = appendMapHeader(b, typeString, typeString, len(row))
		for _, k := range slices.Sorted(maps.Keys(row)) {
			b = appendString(appendString(b, k), row[k])
		}
	}
	return appendStop(appendStop(b))
}

func benchConn(b *testing.B, path string) *Conn {
	b.Helper()
	c, err := Dial(context.Background(), path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

func BenchmarkQuery(b *testing.B) {
	b.Run("ours", func(b *testing.B) { benchSizes(b, benchOurs(context.Background())) })
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.Run("ours-cancellable", func(b *testing.B) { benchSizes(b, benchOurs(ctx)) })
	b.Run("each", func(b *testing.B) { benchSizes(b, benchEach) })
	b.Run("queue", func(b *testing.B) { benchSizes(b, benchQueue(ctx)) })
	b.Run("generated", func(b *testing.B) { benchSizes(b, benchGenerated) })
	b.Run("floor", func(b *testing.B) { benchSizes(b, benchFloor) })
}

func benchOurs(ctx context.Context) func(b *testing.B, path string) {
	return func(b *testing.B, path string) {
		c := benchConn(b, path)
		b.ReportAllocs()
		for b.Loop() {
			if rows, err := c.Query(ctx, "select 1"); err != nil || rows.Len() == 0 {
				b.Fatal(err)
			}
		}
	}
}

func benchEach(b *testing.B, path string) {
	b.Helper()
	c := benchConn(b, path)
	b.ReportAllocs()
	for b.Loop() {
		if err := queryEach(context.Background(), c, "select 1", func(Row) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func benchQueue(ctx context.Context) func(b *testing.B, path string) {
	return func(b *testing.B, path string) {
		q := NewQueryQueue(nil)
		defer func() { _ = q.Close() }()
		q.Reset(path)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := q.Query(ctx, "select 1"); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func benchGenerated(b *testing.B, path string) {
	b.Helper()
	c := generatedClient(b, path)
	b.ReportAllocs()
	for b.Loop() {
		if res, err := c.Query(context.Background(), "select 1"); err != nil || len(res.Response) == 0 {
			b.Fatal(err)
		}
	}
}

// benchFloor reads the bytes of the answer and decodes none.
func benchFloor(b *testing.B, path string) {
	b.Helper()
	c := benchConn(b, path)
	request := appendStop(appendStringField(appendHeader(nil, messageCall, methodQuery, 1), 1, "select 1"))
	size := 0
	buf := make([]byte, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.nc.Write(request); err != nil {
			b.Fatal(err)
		}
		n, err := c.nc.Read(buf)
		if size == 0 {
			size = wholeAnswer(b, c.nc, buf, n)
			continue
		}
		if err == nil && n < size {
			_, err = io.ReadFull(c.nc, buf[n:size])
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// wholeAnswer reads the rest of an answer and returns its size.
func wholeAnswer(b *testing.B, nc net.Conn, buf []byte, n int) int {
	b.Helper()
	for {
		if _, err := decodeAnswer(buf[:n], DefaultMaxMessage); err == nil {
			return n
		}
		m, err := nc.Read(buf[n:])
		if err != nil {
			b.Fatal(err)
		}
		n += m
	}
}

// BenchmarkContendedQueue is one query at a time from 8 goroutines.
func BenchmarkContendedQueue(b *testing.B) {
	q := NewQueryQueue(nil)
	defer func() { _ = q.Close() }()
	q.Reset(replayer(b, sortedAnswer(sampleRows(1000)...)))
	b.SetParallelism(4)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := q.Query(context.Background(), "select 1"); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// logCall is a logger call as osqueryd sends it.
func logCall() []byte {
	line := make([]byte, 300)
	for i := range line {
		line[i] = 'x'
	}
	out := appendCall(appendHeader(nil, messageCall, methodCall, 0), "logger", "osqvisor",
		map[string]string{"string": string(line), "category": "event"})
	return appendStop(out)
}

type discard struct{}

func (discard) Ping(context.Context) (*osquery.ExtensionStatus, error) { return okStatus(), nil }
func (discard) Shutdown(context.Context) error                         { return nil }
func (discard) Call(context.Context, string, string, osquery.ExtensionPluginRequest) (*osquery.ExtensionResponse, error) {
	return &osquery.ExtensionResponse{Status: okStatus()}, nil
}

// BenchmarkServer sends log lines: "kept" on one connection, "fresh" with a
// connection for the ping and one for the call, as osqueryd does.
func BenchmarkServer(b *testing.B) {
	ours := func(b *testing.B) string {
		_, path := startServer(b, handlerFunc(func(context.Context, string, string, map[string]string) osquery.ExtensionResponse {
			return okResponse()
		}))
		return path
	}
	generated := func(b *testing.B) string {
		path := socketPath(b)
		l, err := Listen(path)
		if err != nil {
			b.Fatal(err)
		}
		accepting(b, l, serveGenerated(osquery.NewExtensionProcessor(discard{})))
		return path
	}
	for name, start := range map[string]func(*testing.B) string{"ours": ours, "generated": generated} {
		b.Run(name+"/kept", func(b *testing.B) { benchKept(b, start(b)) })
		b.Run(name+"/fresh", func(b *testing.B) { benchFresh(b, start(b)) })
	}
}

func benchKept(b *testing.B, path string) {
	b.Helper()
	nc, err := dialSocket(context.Background(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	request, buf := logCall(), make([]byte, 1000)
	b.ReportAllocs()
	for b.Loop() {
		exchangeRaw(b, nc, request, buf)
	}
}

func benchFresh(b *testing.B, path string) {
	b.Helper()
	ping := appendStop(appendHeader(nil, messageCall, methodPing, 0))
	call, buf := logCall(), make([]byte, 1000)
	b.ReportAllocs()
	for b.Loop() {
		for _, request := range [][]byte{ping, call} {
			nc, err := dialSocket(context.Background(), path)
			if err != nil {
				b.Fatal(err)
			}
			exchangeRaw(b, nc, request, buf)
			_ = nc.Close()
		}
	}
}

func exchangeRaw(b *testing.B, nc net.Conn, request, buf []byte) {
	b.Helper()
	if _, err := nc.Write(request); err != nil {
		b.Fatal(err)
	}
	n, err := nc.Read(buf)
	if err != nil || n < 8 || binary.BigEndian.Uint32(buf) != version1|uint32(messageReply) {
		b.Fatalf("answer %x: %v", buf[:n], err)
	}
}

// BenchmarkDecode decodes 1000 rows of 5 columns out of memory.
func BenchmarkDecode(b *testing.B) {
	data := sortedAnswer(sampleRows(1000)...)
	b.Run("ours", func(b *testing.B) {
		st, src := &callState{}, bytes.NewReader(nil)
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			var rows Rows
			ex := rowsExchange(methodQuery, "", &rows)
			src.Reset(data)
			st.r.reset(src, DefaultMaxMessage)
			st.rows.reset()
			if err := st.r.reply(st, methodQuery, 1, ex); err != nil || ex.finish(st) != nil || rows.Len() != 1000 {
				b.Fatal(err, st.r.err)
			}
		}
	})
	b.Run("generated", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		for b.Loop() {
			if rows, ok := generatedDecode(data); !ok || len(rows) != 1000 {
				b.Fatal("not decoded")
			}
		}
	})
}
