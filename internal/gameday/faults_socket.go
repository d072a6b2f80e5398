package gameday

import (
	"context"
	"fmt"
	"os"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/thriftconn"
	"github.com/osqvisor/osqvisor/stats"
)

// socketFaults take away what we reach osqueryd by, or what it knows of us.
func socketFaults() []fault {
	return []fault{
		{
			name: "socket file deleted", notice: kinds(stats.HealthFailed{}), causes: anyOf(stats.CauseUnhealthy),
			impossible: needsSignals, // a pipe has no file
			inject: func(_ context.Context, s *strike) error {
				in, err := s.w.runner.Instance(s.id)
				if err != nil {
					return err
				}
				return os.Remove(in.Socket())
			},
		},
		{
			name: "socket connections closed", notice: kinds(stats.WorkerLost{}), fakeOnly: noScript,
			settle: kinds(stats.RegistrationRestored{}),
			inject: func(ctx context.Context, s *strike) error {
				return s.tell(ctx, osquerydtest.Action{Do: osquerydtest.CloseConnections})
			},
		},
		spoiled("socket connection reset mid-call", spoilReset),
		{
			name: "registration dropped in silence", notice: kinds(stats.RegistrationLost{}),
			settle: kinds(stats.RegistrationRestored{}), inject: dropRegistration,
		},
	}
}

// dropRegistration has osqueryd forget us. No line is logged meanwhile: an osqueryd that
// has one and no logger ends itself, which is another fault.
func dropRegistration(ctx context.Context, s *strike) error {
	s.finally(s.w.lines.hush(s.id))
	if s.w.fake != nil {
		return s.tell(ctx, osquerydtest.Action{Do: osquerydtest.DropRegistration})
	}
	return s.deregister(ctx)
}

// deregister does it to a real osqueryd, whose schedule cannot be hushed: a line may come
// before we are registered again.
func (s *strike) deregister(ctx context.Context) error {
	s.f.notice = append(s.f.notice, kinds(stats.RunEnded{})...)
	s.f.settle = append(s.f.settle, kinds(stats.RunReady{})...)
	s.f.also = anyOf(stats.CauseLoggerFailed, stats.CauseExit)
	in, err := s.w.runner.Instance(s.id)
	if err != nil {
		return err
	}
	c, err := thriftconn.Dial(ctx, in.Socket())
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	list, err := c.Extensions(ctx)
	if err != nil {
		return err
	}
	s.now()
	for uuid, info := range list {
		if err := c.Deregister(ctx, int64(uuid)); err != nil {
			return fmt.Errorf("deregister %s: %w", info.GetName(), err)
		}
	}
	return nil
}

// spoiled asks a query whose answer is spoiled: the caller must hear of it, and nobody else.
func spoiled(name, mark string) fault {
	return fault{name: name, fakeOnly: noScript, inject: func(ctx context.Context, s *strike) error {
		ctx, cancel := context.WithTimeout(ctx, answerPatience)
		defer cancel()
		_, err := s.w.runner.Query(ctx, s.id, spoiledQuery(mark))
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("the query was not answered in %v: %w", answerPatience, err)
		case err == nil:
			return fmt.Errorf("the query succeeded though its answer was spoiled")
		}
		s.saw("the query's error")
		return nil
	}}
}

func spoiledQuery(mark string) string {
	return "select pid from osquery_info where version = '" + mark + "'"
}

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
