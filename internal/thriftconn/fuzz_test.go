package thriftconn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"
	"github.com/osquery/osquery-go/gen/osquery"
)

const fuzzLimit = 1 << 20

// decoderErrors are all that bytes alone may lead to.
func decoderErrors(err error) bool {
	var status *StatusError
	var app *ApplicationError
	return err == nil || errors.Is(err, ErrMalformed) || errors.Is(err, ErrTooLarge) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &status) || errors.As(err, &app)
}

// FuzzQueryAnswer holds our decoder against the generated one: what both
// accept, they must read the same.
func FuzzQueryAnswer(f *testing.F) {
	for _, rows := range [][]map[string]string{
		{}, {{"1": "1"}}, sampleRows(5), {{}, {"a": "1"}, {"b": "2", "a": ""}},
	} {
		f.Add(encodeAnswer(f, rowsResponse(rows...), &thrift.TConfiguration{}))
	}
	f.Add(appendListHeader(answerHead(), typeMap, 1<<30))
	f.Add(appendStop(appendException(appendHeader(nil, messageException, methodQuery, 1), 1, "no")))
	f.Fuzz(func(t *testing.T, data []byte) {
		rows, err := decodeAnswer(data, fuzzLimit)
		if !decoderErrors(err) {
			t.Fatalf("unexpected kind of error: %v", err)
		}
		again, errAgain := decodeFrom(oneByte{bytes.NewReader(data)}, fuzzLimit)
		if !cmp.Equal(mapsOf(rows), mapsOf(again)) || (err == nil) != (errAgain == nil) {
			t.Fatalf("reading byte by byte makes a difference: %v, %v", err, errAgain)
		}
		if err != nil {
			return
		}
		want, ok := generatedDecode(data)
		if ok && !cmp.Equal(mapsOf(rows), want) {
			t.Fatalf("got %v, the generated decoder %v", mapsOf(rows), want)
		}
	})
}

// generatedDecode reads an answer with the generated code.
func generatedDecode(data []byte) ([]map[string]string, bool) {
	ctx := context.Background()
	mem := thrift.NewTMemoryBuffer()
	_, _ = mem.Write(data)
	proto := thrift.NewTBinaryProtocolConf(mem, &thrift.TConfiguration{MaxMessageSize: fuzzLimit})
	if _, _, _, err := proto.ReadMessageBegin(ctx); err != nil {
		return nil, false
	}
	var result osquery.ExtensionManagerQueryResult
	if err := result.Read(ctx, proto); err != nil || !result.IsSetSuccess() {
		return nil, false
	}
	rows := []map[string]string{}
	return append(rows, result.Success.Response...), true
}

// FuzzRequest feeds a server connection with whatever it likes.
func FuzzRequest(f *testing.F) {
	f.Add(appendStop(appendHeader(nil, messageCall, methodPing, 1)))
	f.Add(appendStop(appendCall(appendHeader(nil, messageCall, methodCall, 2), "logger", "x", map[string]string{"string": "{}"})))
	f.Add(appendStop(appendHeader(nil, messageCall, "nosuch", 3)))
	f.Add(appendI32(appendField(appendHeader(nil, messageCall, methodCall, 4), typeString, 1), 1<<30))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r reader
		r.reset(bytes.NewReader(data), fuzzLimit)
		for r.err == nil {
			r.begin()
			h := r.header()
			if h.method != methodCall {
				r.skip(typeStruct)
				continue
			}
			registry, item, request := r.callArgs()
			if r.err == nil {
				checkRequest(t, registry, item, request)
			}
		}
		if !decoderErrors(r.err) {
			t.Fatalf("unexpected kind of error: %v", r.err)
		}
	})
}

// checkRequest sends what was decoded through the encoder and back.
func checkRequest(t *testing.T, registry, item string, request map[string]string) {
	t.Helper()
	var r reader
	r.reset(bytes.NewReader(appendStop(appendCall(nil, registry, item, request))), 2*fuzzLimit)
	registry2, item2, request2 := r.callArgs()
	if r.err != nil || registry2 != registry || item2 != item || !cmp.Equal(request, request2) {
		t.Fatalf("%q %q %v became %q %q %v: %v", registry, item, request, registry2, item2, request2, r.err)
	}
}
