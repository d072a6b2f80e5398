package main

import (
	"context"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/tlstrial"
)

// transport is the remote API, and reports what the server accepted. This is how a host
// puts something of its own around a transport: what it embeds does the rest.
type transport struct {
	*remoteapi.Client
	out *tlstrial.Sender
}

// PublishLogs delivers a batch and, when the server has it, reports the numbers in it.
func (t transport) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	if err := t.Client.PublishLogs(ctx, node, batch); err != nil {
		return err
	}
	m := tlstrial.Message{Kind: tlstrial.KindBatch, Instance: node.Instance, Batch: batch.ID}
	for _, line := range batch.Lines {
		if n, ok := tlstrial.NumberOf(line); ok {
			m.Lines = append(m.Lines, n)
		}
	}
	if len(m.Lines) == 0 {
		return nil
	}
	return t.out.Send(m)
}

// WriteResults delivers results and reports how many the server has.
func (t transport) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	if err := t.Client.WriteResults(ctx, node, results); err != nil {
		return err
	}
	return t.out.Send(tlstrial.Message{Kind: tlstrial.KindResults, Instance: node.Instance, Count: len(results)})
}
