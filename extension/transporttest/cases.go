package transporttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
)

func cases() []testCase {
	return []testCase{
		{"Enroll", nil, enrolment},
		{"Config", []Feature{Configs}, configs},
		{"Logs/Order", []Feature{Logs}, order},
		{"Logs/Duplicates", []Feature{Logs}, duplicates},
		{"Logs/Retried", []Feature{Logs}, retried},
		{"Logs/Signature", []Feature{Logs, Signatures}, signature},
		{"Logs/Huge", []Feature{Logs}, huge},
		{"Logs/Least", []Feature{Logs}, least},
		{"Logs/Bytes", []Feature{Logs}, bytesOfLines},
		{"Logs/NotJSON", []Feature{Logs, NotJSON}, notJSON},
		{"Logs/Ownership", []Feature{Logs}, ownership},
		{"Queries", []Feature{Queries}, querySets},
		{"Results", []Feature{Queries}, results},
		{"Results/NoRows", []Feature{Queries}, noRows},
		{"Errors/Surface", nil, surface},
		{"Errors/RetryAfter", []Feature{RetryAfters}, retryAfter},
		{"Errors/NodeInvalid", []Feature{NodeInvalids}, nodeInvalid},
		{"Errors/Permanent", []Feature{Permanents}, permanent},
		{"Errors/TooLarge", []Feature{Logs, TooLarges}, tooLarge},
		{"Carves", []Feature{Carves}, carves},
		{"Cancel/UnderWay", []Feature{Hangs}, cancellation},
		{"Cancel/Before", nil, ended},
		{"Cancel/Goroutines", []Feature{Hangs}, goroutines},
		{"Concurrency", nil, concurrency},
		{"Unsupported", nil, unsupported},
	}
}

// enrolment: every instance gets a key, and enrolling again works.
func enrolment(s *suite) {
	if _, ok := s.h.Transport().(extension.Enroller); !ok {
		s.Skipf("the transport is no Enroller")
	}
	keys := map[string]string{}
	for i := range 4 {
		instance := fmt.Sprintf("enroll-%d", i)
		key := s.node(instance).Key
		if other, used := keys[key]; used {
			s.Errorf("%s and %s got the same node key", other, instance)
		}
		keys[key] = instance
	}
	s.node("enroll-0")
	err := s.within("Enroll", callTimeout, func(context.Context) error {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		node := extension.Node{Instance: "enroll-9", HostIdentifier: "enroll-9"}
		_, err := s.h.Transport().(extension.Enroller).Enroll(over, extension.EnrollRequest{Node: node})
		return err
	})
	if err == nil {
		s.Errorf("Enroll: nil although its context was over before the call")
	}
}

const instances = 16

// concurrency: many instances at once, and each sees and sends only its own.
func concurrency(s *suite) {
	var all sync.WaitGroup
	failures := make(chan error, instances)
	for i := range instances {
		instance := fmt.Sprintf("tenant-%02d", i)
		node := s.node(instance)
		if s.limits.Cannot[Configs] == "" {
			s.h.SetConfig(instance, s.sources(`{"of":"`+instance+`"}`, nil))
		}
		if s.limits.Cannot[Queries] == "" {
			s.h.SetQueries(instance, extension.QuerySet{Queries: map[string]string{instance: "select '" + instance + "'"}})
		}
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			failures <- s.live(ctx, node)
		})
	}
	s.must("all instances", func(context.Context) error { all.Wait(); return nil })
	for range instances {
		if err := <-failures; err != nil {
			s.Errorf("%v", err)
		}
	}
	for i := range instances {
		s.ownOnly(fmt.Sprintf("tenant-%02d", i))
	}
}

const rounds = 5

func roundBatch(instance string, i int) extension.Batch {
	return newBatch(instance, extension.QueueResults, uint64(i+1), fmt.Sprintf(`{"of":%q,"n":"%d"}`, instance, i))
}

// live is what one instance does; it runs beside the test's goroutine.
func (s *suite) live(ctx context.Context, node extension.Node) error {
	t := s.h.Transport()
	for i := range rounds {
		if s.limits.Cannot[Configs] == "" {
			got, err := t.Config(ctx, node)
			if want := s.sources(`{"of":"`+node.Instance+`"}`, nil); err != nil || !maps.Equal(got, want) {
				return fmt.Errorf("%s: Config gave %v, %w", node.Instance, got, orNone(err))
			}
		}
		if s.limits.Cannot[Queries] == "" {
			set, err := t.Queries(ctx, node)
			if err != nil {
				return fmt.Errorf("%s: Queries: %w", node.Instance, err)
			}
			for id := range set.Queries {
				if id != node.Instance {
					return fmt.Errorf("%s: Queries gave a query of %s", node.Instance, id)
				}
			}
		}
		if s.limits.Cannot[Logs] == "" {
			if err := t.PublishLogs(ctx, node, roundBatch(node.Instance, i)); err != nil {
				return fmt.Errorf("%s: PublishLogs: %w", node.Instance, err)
			}
		}
	}
	if s.limits.Cannot[Queries] != "" {
		return nil
	}
	return t.WriteResults(ctx, node, []extension.Result{{ID: node.Instance, Rows: []byte(`[]`)}})
}

func orNone(err error) error {
	if err == nil {
		return errors.New("without an error")
	}
	return err
}

func (s *suite) ownOnly(instance string) {
	s.Helper()
	if s.limits.Cannot[Logs] == "" {
		var want []extension.Batch
		for i := range rounds {
			want = append(want, roundBatch(instance, i))
		}
		s.same(instance, s.received(instance, extension.QueueResults), want)
	}
	if s.limits.Cannot[Queries] == "" {
		s.sameResults(instance, []extension.Result{{ID: instance, Rows: []byte(`[]`)}})
	}
}

// unsupported: what is declared as missing says so by its error.
func unsupported(s *suite) {
	node, t := s.node("unsupported"), s.h.Transport()
	check := func(f Feature, name string, call func(context.Context) error) {
		if s.limits.Cannot[f] == "" {
			return
		}
		if err := s.within(name, callTimeout, call); !errors.Is(err, extension.ErrUnsupported) {
			s.Errorf("%s: %v, but the harness declares that it cannot do %q: want ErrUnsupported", name, err, f)
		}
	}
	check(Configs, "Config", func(ctx context.Context) error { _, err := t.Config(ctx, node); return err })
	check(Logs, "PublishLogs", func(ctx context.Context) error {
		return t.PublishLogs(ctx, node, newBatch("unsupported", extension.QueueResults, 1, `{}`))
	})
	check(Queries, "Queries", func(ctx context.Context) error { _, err := t.Queries(ctx, node); return err })
	check(Queries, "WriteResults", func(ctx context.Context) error {
		return t.WriteResults(ctx, node, []extension.Result{{ID: "q"}})
	})
}
