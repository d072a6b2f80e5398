package thriftconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

// decodeAnswer reads the answer to query 1 from bytes.
func decodeAnswer(data []byte, limit int) (Rows, error) {
	return decodeFrom(bytes.NewReader(data), limit)
}

func decodeFrom(src io.Reader, limit int) (rows Rows, err error) {
	st := &callState{}
	st.r.reset(src, limit)
	ex := rowsExchange(methodQuery, "", &rows)
	err = st.r.reply(st, methodQuery, 1, ex)
	if st.r.err != nil {
		return Rows{}, st.r.err
	}
	if err == nil {
		err = ex.finish(st)
	}
	return rows, err
}

// encodeAnswer is the answer to query 1 as the generated code writes it.
func encodeAnswer(t testing.TB, res *osquery.ExtensionResponse, conf *thrift.TConfiguration) []byte {
	t.Helper()
	mem := thrift.NewTMemoryBuffer()
	proto := thrift.NewTBinaryProtocolConf(mem, conf)
	ctx := context.Background()
	result := osquery.ExtensionManagerQueryResult{Success: res}
	for _, err := range []error{
		proto.WriteMessageBegin(ctx, methodQuery, thrift.REPLY, 1),
		result.Write(ctx, proto),
		proto.Flush(ctx),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return mem.Bytes()
}

// answerHead is an answer up to its rows, whose header the caller adds.
func answerHead() []byte {
	b := appendHeader(nil, messageReply, methodQuery, 1)
	b = appendField(appendField(b, typeStruct, 0), typeStruct, 1)
	return appendField(appendStatus(b, 0, "OK", 0), typeList, 2)
}

func TestTruncatedAnswers(t *testing.T) {
	whole := encodeAnswer(t, rowsResponse(sampleRows(3)...), &thrift.TConfiguration{})
	for n := range whole {
		_, err := decodeAnswer(whole[:n], DefaultMaxMessage)
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if !errors.Is(err, want) {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
	if _, err := decodeAnswer(whole, len(whole)); err != nil {
		t.Fatalf("a limit of exactly its size: %v", err)
	}
	if _, err := decodeAnswer(whole, len(whole)-1); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("a limit of one byte less: %v", err)
	}
}

func TestAnswersInSmallPieces(t *testing.T) {
	want := append(sampleRows(20), map[string]string{"odd": strings.Repeat("z", maxBuffer+1)})
	whole := encodeAnswer(t, rowsResponse(want...), &thrift.TConfiguration{})
	got, err := decodeFrom(oneByte{bytes.NewReader(whole)}, DefaultMaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, got, want)
}

// oneByte reads one byte at a time.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// All orders of cells and all sizes of buffer must lead to the same rows.
func TestSortedAndShuffledAnswersAgree(t *testing.T) {
	rows := sampleRows(700)
	for name, data := range map[string][]byte{
		"sorted":   sortedAnswer(rows...),
		"shuffled": encodeAnswer(t, rowsResponse(rows...), &thrift.TConfiguration{}),
	} {
		got, err := decodeAnswer(data, DefaultMaxMessage)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		checkRows(t, got, rows)
		if got.t.ragged != (name == "shuffled") {
			t.Errorf("%s: ragged is %t", name, got.t.ragged)
		}
	}
}

// What a query allocates must not depend on how many rows it returns.
func TestAllocationsDoNotGrowWithRows(t *testing.T) {
	for _, n := range []int{1, 1000, 5000} {
		data := sortedAnswer(sampleRows(n)...)
		st := &callState{}
		src := bytes.NewReader(nil)
		allocs := testing.AllocsPerRun(5, func() {
			src.Reset(data)
			st.r.reset(src, DefaultMaxMessage)
			st.rows.reset()
			var rows Rows
			ex := rowsExchange(methodQuery, "", &rows)
			if err := st.r.reply(st, methodQuery, 1, ex); err != nil || st.r.err != nil || ex.finish(st) != nil {
				t.Fatal(err, st.r.err)
			}
		})
		if allocs > 10 {
			t.Errorf("%v allocations for %d rows", allocs, n)
		}
	}
}

func TestAnswersInTheOldForm(t *testing.T) {
	rows := sampleRows(3)
	loose := encodeAnswer(t, rowsResponse(rows...), &thrift.TConfiguration{TBinaryStrictWrite: thrift.BoolPtr(false)})
	got, err := decodeAnswer(loose, DefaultMaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, got, rows)
}

func TestUnknownFieldsAreSkipped(t *testing.T) {
	junk := func(b []byte) []byte {
		b = append(appendField(b, typeBool, 90), 1)
		b = append(appendField(b, typeByte, 91), 1)
		b = append(appendField(b, typeI16, 92), 1, 2)
		b = append(appendField(b, typeDouble, 93), make([]byte, 8)...)
		b = append(appendField(b, typeUUID, 94), make([]byte, 16)...)
		b = appendStop(appendStringField(appendField(b, typeStruct, 95), 1, "x"))
		b = appendString(appendListHeader(appendField(b, typeSet, 96), typeString, 1), "x")
		b = appendI32(appendListHeader(appendField(b, typeList, 97), typeI32, 1), 1)
		b = appendStringMap(appendField(b, typeMap, 98), map[string]string{"a": "b"})
		return appendStringField(b, 1, "field 1 of another type than the status")
	}
	b := junk(appendHeader(nil, messageReply, methodQuery, 1))
	b = junk(appendField(b, typeStruct, 0))
	b = junk(appendField(b, typeStruct, 1))
	b = appendI64(appendField(b, typeI64, 1), 5) // code, as an i64
	b = appendStop(b)
	b = appendStringMaps(appendField(b, typeList, 2), []map[string]string{{"a": "1"}})
	b = appendStop(appendStop(junk(b)))
	got, err := decodeAnswer(b, DefaultMaxMessage)
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, got, []map[string]string{{"a": "1"}})
}

func TestRubbishAnswers(t *testing.T) {
	head := slices.Clip(answerHead())
	deep := appendHeader(nil, messageReply, methodQuery, 1)
	for range 100000 {
		deep = appendField(deep, typeStruct, 9)
	}
	cell := appendString(appendString(nil, "k"), "v")
	row := append(appendMapHeader(nil, typeString, typeString, 2), append(cell, cell...)...)
	cases := map[string]struct {
		data []byte
		want error
	}{
		"text":                   {[]byte("HTTP/1.1 400 Bad Request\r\n"), ErrMalformed},
		"version":                {[]byte{0x80, 2, 0, 2, 0, 0, 0, 5}, ErrMalformed},
		"negative name":          {appendI32([]byte{0x80, 1, 0, 2}, -1), ErrMalformed},
		"long name":              {appendI32([]byte{0x80, 1, 0, 2}, maxMethod+1), ErrMalformed},
		"another sequence":       {appendStop(appendHeader(nil, messageReply, methodQuery, 2)), ErrMalformed},
		"another method":         {appendStop(appendHeader(nil, messageReply, methodPing, 1)), ErrMalformed},
		"a call":                 {appendStop(appendHeader(nil, messageCall, methodQuery, 1)), ErrMalformed},
		"result of a wrong type": {appendI32(appendField(appendHeader(nil, messageReply, methodQuery, 1), typeI32, 0), 1), ErrMalformed},
		"unknown type":           {appendField(appendHeader(nil, messageReply, methodQuery, 1), 77, 9), ErrMalformed},
		"too deep":               {deep, ErrMalformed},
		"negative list":          {appendListHeader(head, typeMap, -1), ErrMalformed},
		"huge list":              {appendListHeader(head, typeMap, 1<<31-1), ErrTooLarge},
		"list of strings":        {appendString(appendListHeader(head, typeString, 1), "xx"), ErrMalformed},
		"huge map":               {appendMapHeader(appendListHeader(head, typeMap, 1), typeString, typeString, 1<<30), ErrTooLarge},
		"negative map":           {appendMapHeader(appendListHeader(head, typeMap, 1), typeString, typeString, -7), ErrMalformed},
		"map of numbers":         {append(appendMapHeader(appendListHeader(head, typeMap, 1), typeI32, typeI32, 1), make([]byte, 8)...), ErrMalformed},
		"huge key":               {appendI32(appendMapHeader(appendListHeader(head, typeMap, 1), typeString, typeString, 1), 1<<30), ErrTooLarge},
		"huge value":             {appendI32(appendString(appendMapHeader(appendListHeader(head, typeMap, 1), typeString, typeString, 1), "k"), 1<<30), ErrTooLarge},
		"rows twice":             {appendListHeader(appendField(appendListHeader(head, typeMap, 0), typeList, 2), typeMap, 0), ErrMalformed},
		"a column twice":         {append(appendListHeader(head, typeMap, 1), row...), ErrMalformed},
		"a column twice, later":  {append(appendStringMap(appendListHeader(head, typeMap, 2), map[string]string{"k": "", "l": ""}), row...), ErrMalformed},
		"huge skipped list":      {appendListHeader(appendField(appendHeader(nil, messageReply, methodQuery, 1), typeList, 9), typeI64, 1<<30), ErrTooLarge},
		"list of stops":          {appendListHeader(appendField(appendHeader(nil, messageReply, methodQuery, 1), typeList, 9), typeStop, 1<<30), ErrMalformed},
	}
	for name, c := range cases {
		if _, err := decodeAnswer(bytes.Clone(c.data), DefaultMaxMessage); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestClaimsAllocateNothing(t *testing.T) {
	const claim = DefaultMaxMessage - 1000
	oneRow := slices.Clip(appendMapHeader(appendListHeader(answerHead(), typeMap, 1), typeString, typeString, 1))
	cases := map[string][]byte{
		"list":   appendListHeader(answerHead(), typeMap, claim/minMap),
		"map":    appendMapHeader(appendListHeader(answerHead(), typeMap, 1), typeString, typeString, claim/8),
		"key":    appendI32(oneRow, claim),
		"value":  appendI32(appendString(oneRow, "k"), claim),
		"status": appendI32(appendField(appendField(appendField(appendHeader(nil, messageReply, methodQuery, 1), typeStruct, 0), typeStruct, 1), typeString, 2), claim),
	}
	for name, data := range cases {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decodeAnswer(data, DefaultMaxMessage)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 3*maxClaim {
			t.Errorf("%s: %d bytes allocated for a claim", name, n)
		}
	}
	for _, read := range []func(*reader){
		func(r *reader) { r.extensionList() },
		func(r *reader) { r.stringMaps() }, func(r *reader) { r.stringMap() },
	} {
		var r reader
		r.reset(bytes.NewReader(appendI32([]byte{typeMap}, claim/20)), DefaultMaxMessage)
		if n := testing.AllocsPerRun(1, func() { read(&r) }); n > 200 {
			t.Errorf("%v allocations for a claim", n)
		}
	}
}

// A row may differ from all before it, whatever that costs the peer: memory
// must grow with the bytes that arrived, not with rows times columns.
func TestRaggedRowsStayLinear(t *testing.T) {
	const n = 20000
	rows := make([]map[string]string, n)
	for i := range rows {
		rows[i] = map[string]string{strings.Repeat("c", 1+i%7) + string(rune('a'+i%26)) + strings.Repeat("d", i/182): "v"}
	}
	data := encodeAnswer(t, rowsResponse(rows...), &thrift.TConfiguration{})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := decodeAnswer(data, DefaultMaxMessage)
	runtime.ReadMemStats(&after)
	if err != nil || got.Len() != n {
		t.Fatalf("%d rows, %v", got.Len(), err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 20*uint64(len(data)) {
		t.Errorf("%d bytes of answer took %d bytes", len(data), used)
	}
	for _, i := range []int{0, 1, 777, n - 1} {
		if !cmp.Equal(got.View(i).Map(), rows[i]) {
			t.Errorf("row %d is %v", i, got.View(i).Map())
		}
	}
}

func TestBytesAfterAnAnswerBreakTheConnection(t *testing.T) {
	ours, theirs := net.Pipe()
	c := NewConn(ours)
	go func() {
		_, _ = theirs.Read(make([]byte, 1000))
		_, _ = theirs.Write(append(encodeAnswer(t, rowsResponse(), &thrift.TConfiguration{}), "more"...))
	}()
	if _, err := c.Query(testhelp.Context(t), ""); !errors.Is(err, ErrMalformed) || !c.Broken() {
		t.Fatalf("got %v", err)
	}
	_ = theirs.Close()
}

func TestAnswerWithoutResult(t *testing.T) {
	_, err := decodeAnswer(appendStop(appendHeader(nil, messageReply, methodQuery, 1)), 1000)
	var app *ApplicationError
	if !errors.As(err, &app) || app.Type != exceptionMissingResult {
		t.Fatalf("got %v", err)
	}
}
