package main

import (
	"context"
	"fmt"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// protocolFaults are osqueryds that talk, but not sense.
func protocolFaults() []fault {
	return []fault{
		{
			name: "ping answers but calls hang", notice: kinds(stats.HealthFailed{}), fakeOnly: noScript,
			causes: anyOf(stats.CauseUnhealthy),
			inject: func(ctx context.Context, s *strike) error {
				return s.tell(ctx, osquerydtest.Action{Do: osquerydtest.HangCalls})
			},
		},
		spoiled("answer that is rubbish", spoilRubbish),
		spoiled("answer that is truncated", spoilTruncate),
		{name: "answer of 50 MB", fakeOnly: noScript, inject: hugeQuery},
	}
}

// hugeQuery must be answered: it is less than what one message may have.
func hugeQuery(ctx context.Context, s *strike) error {
	ctx, cancel := context.WithTimeout(ctx, 2*answerPatience)
	defer cancel()
	rows, err := s.w.runner.Query(ctx, s.id, spoiledQuery(spoilHuge))
	if err != nil {
		return err
	}
	data := rows.Row(0).Get("data")
	if len(data) != hugeAnswer {
		return fmt.Errorf("a cell has %d bytes, want %d", len(data), hugeAnswer)
	}
	s.saw("all of it was read")
	return nil
}
