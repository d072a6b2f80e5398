package fakeosqueryd

import (
	"context"
	"slices"
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/google/go-cmp/cmp"
	"github.com/osquery/osquery-go/gen/osquery"
)

// The columns of a row arrive in alphabetical order, each with its value.
func TestRowsAreWrittenInOrderOfTheirColumns(t *testing.T) {
	sent := osquery.NewExtensionResponse()
	sent.Status = osquery.NewExtensionStatus()
	for range 20 {
		sent.Response = append(sent.Response, map[string]string{"d": "4", "b": "2", "e": "5", "a": "1", "c": "3"}, map[string]string{})
	}
	buffer := thrift.NewTMemoryBuffer()
	if err := sent.Write(t.Context(), newProtocol(buffer)); err != nil {
		t.Fatal(err)
	}
	r := &reader{TProtocol: thrift.NewTBinaryProtocolConf(buffer, nil)}
	got := osquery.NewExtensionResponse()
	if err := got.Read(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sent.Response, got.Response); diff != "" {
		t.Error(diff)
	}
	if want := slices.Repeat([]string{"a", "1", "b", "2", "c", "3", "d", "4", "e", "5"}, 20); !slices.Equal(r.texts, want) {
		t.Errorf("the order is %q", r.texts)
	}
}

// reader notes the texts of maps as they are read.
type reader struct {
	thrift.TProtocol
	inMap bool
	texts []string
}

func (r *reader) ReadMapBegin(ctx context.Context) (key, value thrift.TType, size int, err error) {
	r.inMap = true
	return r.TProtocol.ReadMapBegin(ctx)
}

func (r *reader) ReadMapEnd(ctx context.Context) error {
	r.inMap = false
	return r.TProtocol.ReadMapEnd(ctx)
}

func (r *reader) ReadString(ctx context.Context) (string, error) {
	text, err := r.TProtocol.ReadString(ctx)
	if r.inMap {
		r.texts = append(r.texts, text)
	}
	return text, err
}
