package main

import (
	"context"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
)

// transport is the remote API, and tells what the server took. This is how a host
// puts something of its own around a transport: what it embeds does the rest.
type transport struct {
	*remoteapi.Client
	out *teller
}

// PublishLogs delivers a batch and, when the server has it, tells the numbers in it.
func (t transport) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	if err := t.Client.PublishLogs(ctx, node, batch); err != nil {
		return err
	}
	m := message{Kind: saysBatch, Instance: node.Instance, Batch: batch.ID}
	for _, line := range batch.Lines {
		if n, ok := numberOf(line); ok {
			m.Lines = append(m.Lines, n)
		}
	}
	if len(m.Lines) == 0 {
		return nil
	}
	return t.out.tell(m)
}

// WriteResults delivers results and tells how many the server has.
func (t transport) WriteResults(ctx context.Context, node extension.Node, results []extension.Result) error {
	if err := t.Client.WriteResults(ctx, node, results); err != nil {
		return err
	}
	return t.out.tell(message{Kind: saysResults, Instance: node.Instance, Count: len(results)})
}
