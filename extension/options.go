package extension

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"time"

	"github.com/osqvisor/osqvisor/internal/record"
	"github.com/osqvisor/osqvisor/stats"
)

// Option sets up an [Extension]. Options are checked by [New], all together;
// of two options of the same name the later one counts.
type Option interface{ apply(*settings) }

type optionFunc func(*settings)

func (f optionFunc) apply(s *settings) { f(s) }

// settings is what the options say, before and after it was checked.
type settings struct {
	name      string
	node      func() Node
	transport Transport
	dir       string
	tables    []Table
	logger    *slog.Logger
	emit      func(stats.Event)
	head      func() stats.Head
	counters  *record.Counters

	configTimeout    time.Duration
	transportTimeout time.Duration
	answerTimeout    time.Duration
	tableTimeout     time.Duration
	drain            time.Duration
	configLimit      int
	probation        time.Duration
	policy           ConfigPolicy
	owned            []string
	lateConfig       func(map[string]string)
	activated        []func(string)

	log         logSettings
	delivery    Delivery
	signer      crypto.Signer
	keys        NodeKeyStore
	enrolment   Enrolment
	hostDetails func(context.Context) map[string]map[string]string
	discover    func(ctx context.Context, sql string) (rows int, err error)
	rawEvents   bool
	deferred    bool // the queues are opened by hand
	silent      bool // there is no transport
	hosted      bool // options of an instance's host are being applied

	errs []error
}

// ConfigPolicy may change a config or refuse it, after it was fetched and
// parsed and before osqueryd sees it. What it returns is parsed again. An error
// leaves the last good config in force. What is kept on disk goes through it at its
// first use after a start. It must return when its context ends;
// it is never called twice at the same time for one instance, and a panic in it
// is a refusal. It must not call back into the instance.
type ConfigPolicy func(ctx context.Context, node Node, config map[string]string) (map[string]string, error)

func defaults() *settings {
	return &settings{
		name:             "osqvisor",
		logger:           slog.New(slog.DiscardHandler),
		configTimeout:    10 * time.Second,
		transportTimeout: time.Minute,
		answerTimeout:    30 * time.Second,
		tableTimeout:     50 * time.Second,
		drain:            5 * time.Second,
		configLimit:      1 << 20,
		probation:        DefaultConfigProbation,
		log:              defaultLogSettings(),
		delivery:         defaultDelivery(),
		enrolment:        Enrolment{Interval: time.Minute},
	}
}

// reject notes a mistake of the option called name.
func (s *settings) reject(name, format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf("extension.%s: %w", name, fmt.Errorf(format, args...)))
}

// positive notes a mistake unless d is above zero.
func (s *settings) positive(name string, d time.Duration) {
	if d <= 0 {
		s.reject(name, "%v is not a wait; give a duration above 0", d)
	}
}

// check gives every mistake in the settings, joined.
func (s *settings) check() error {
	if s.node == nil {
		s.reject("WithNode", "missing; the transport has to be told which instance is asking")
	}
	if s.dir == "" {
		s.reject("WithDir", "missing; queues, the last good config and the node key need a directory")
	} else if !filepath.IsAbs(s.dir) {
		s.reject("WithDir", "%q is relative; give an absolute path", s.dir)
	}
	if !validName(s.name) {
		s.reject("WithName", "%q is not a plugin name; use 1 to 64 letters, digits, '_', '-' or '.'", s.name)
	}
	s.fill()
	s.errs = append(s.errs, checkTables("WithTables", s.tables)...)
	return errors.Join(s.errs...)
}

// fill gives every hook that the host left out an empty one.
func (s *settings) fill() {
	if isNil(s.transport) {
		s.transport = Funcs{}
	}
	if s.emit == nil {
		s.emit = func(stats.Event) {}
	}
	if s.head == nil {
		s.head = s.headFromNode
	}
	if s.counters == nil {
		s.counters = &record.Counters{}
	}
	if s.enrolment.Pace == nil {
		s.enrolment.Pace = NewEnrollPace(DefaultEnrollRate)
	}
}

func (s *settings) headFromNode() stats.Head {
	n := s.node()
	return stats.Head{Time: time.Now(), Instance: n.Instance, Run: n.Run}
}

// askNode asks the host's function who is asking; a panic in it is an error.
func (s *settings) askNode() (n Node, err error) {
	err = contain("node", func() error {
		n = s.node()
		return nil
	})
	return n, err
}

// isNil tells whether v is nil or holds a nil pointer, map or function.
func isNil(v any) bool {
	if v == nil {
		return true
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Func, reflect.Slice, reflect.Chan, reflect.Interface:
		return r.IsNil()
	default:
		return false
	}
}

func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, r := range s {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.'
		if !ok {
			return false
		}
	}
	return true
}
