package fakeosqueryd

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/apache/thrift/lib/go/thrift"
)

// protocol writes a map of texts in the order of its keys, as osqueryd does, whose rows are
// a std::map. A map of Go has none.
type protocol struct {
	*thrift.TBinaryProtocol
	inMap bool
	texts []string // of the map: key, value, key, value
}

func newProtocol(trans thrift.TTransport) *protocol {
	return &protocol{TBinaryProtocol: thrift.NewTBinaryProtocolConf(trans, nil)}
}

// WriteMapBegin holds the texts back if all are texts.
func (p *protocol) WriteMapBegin(ctx context.Context, key, value thrift.TType, size int) error {
	p.inMap, p.texts = key == thrift.STRING && value == thrift.STRING, p.texts[:0]
	return p.TBinaryProtocol.WriteMapBegin(ctx, key, value, size)
}

// WriteString holds a text of a map back.
func (p *protocol) WriteString(ctx context.Context, text string) error {
	if p.inMap {
		p.texts = append(p.texts, text)
		return nil
	}
	return p.TBinaryProtocol.WriteString(ctx, text)
}

// WriteMapEnd writes the texts that were held back.
func (p *protocol) WriteMapEnd(ctx context.Context) error {
	p.inMap = false
	pairs := slices.Collect(slices.Chunk(p.texts, 2))
	slices.SortFunc(pairs, func(a, b []string) int { return cmp.Compare(a[0], b[0]) })
	var errs []error
	for _, pair := range pairs {
		errs = append(errs, p.TBinaryProtocol.WriteString(ctx, pair[0]), p.TBinaryProtocol.WriteString(ctx, pair[1]))
	}
	return errors.Join(append(errs, p.TBinaryProtocol.WriteMapEnd(ctx))...)
}
