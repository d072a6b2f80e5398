package transporttest

import (
	"context"
	"maps"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

func (s *suite) config(node extension.Node) map[string]string {
	s.Helper()
	var got map[string]string
	s.must("Config", func(ctx context.Context) (err error) {
		got, err = s.h.Transport().Config(ctx, node)
		return err
	})
	return got
}

// sources gives a config in the form that the transport can carry.
func (s *suite) sources(main string, more map[string]string) map[string]string {
	if s.limits.Cannot[Sources] != "" {
		return map[string]string{s.limits.Source: main}
	}
	out := map[string]string{"main": main}
	maps.Copy(out, more)
	return out
}

// configs: what the server has is what arrives, to the byte, and always the latest.
func configs(s *suite) {
	s.can(Sources)
	node := s.node("config")
	for _, want := range []map[string]string{
		s.sources(`{}`, nil),
		s.sources(`{"schedule": {"up": {"query": "select * from uptime where a < 'ž'", "interval": 10}}}`,
			map[string]string{"zweite/Quelle ž": `{"options":{}}`}),
		s.sources(`{"schedule":{},  "filler":"`+strings.Repeat("x", 1<<20)+`"}`, nil),
		s.sources(`{"options":{"a":1.0}}`, nil),
	} {
		s.h.SetConfig("config", maps.Clone(want))
		got := s.config(node)
		s.sameConfig(got, want)
		clear(got) // the caller may do with it what it likes
		s.sameConfig(s.config(node), want)
	}
}

func (s *suite) sameConfig(got, want map[string]string) {
	s.Helper()
	if maps.Equal(got, want) {
		return
	}
	for name, document := range want {
		if got[name] != document {
			s.Errorf("Config: source %q arrived as %s, want %s", name, short([]byte(got[name])), short([]byte(document)))
		}
	}
	for name := range got {
		if _, found := want[name]; !found {
			s.Errorf("Config: source %q was never set", name)
		}
	}
}
