package osquerydtest

import (
	"strings"
	"sync"
	"time"
)

// verdict is what rules want of the answer to a call; the zero verdict is a
// proper answer.
type verdict struct {
	kind  Kind
	text  string
	bytes int64
}

// ruleEngine counts how often each rule matched in this process.
type ruleEngine struct {
	p  *process
	mu sync.Mutex
	on []ruleState
}

type ruleState struct {
	Rule
	seen int
}

func newRuleEngine(p *process) *ruleEngine {
	e := &ruleEngine{p: p}
	for _, r := range p.script.Rules {
		if r.matches(p.id) {
			e.on = append(e.on, ruleState{Rule: r})
		}
	}
	return e
}

// at runs the rules of a phase; text is the SQL or the name at hand.
func (e *ruleEngine) at(ph Phase, text string) verdict {
	return e.p.actAll(e.due(ph, text))
}

func (p *process) actAll(actions []Action) verdict {
	var v verdict
	for _, a := range actions {
		if got := p.act(a); got.kind != "" {
			v = got
		}
	}
	return v
}

// due selects under the lock; actions run without it, as they may block.
func (e *ruleEngine) due(ph Phase, text string) []Action {
	if len(e.on) == 0 { // never written after the start
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Action
	for i := range e.on {
		r := &e.on[i]
		if r.Phase != ph || !strings.Contains(text, r.Match) {
			continue
		}
		r.seen++
		if r.seen > r.Skip && (r.Times == 0 || r.seen <= r.Skip+r.Times) {
			out = append(out, r.Action)
		}
	}
	return out
}

// act does one action. Those that shape an answer are returned.
func (p *process) act(a Action) verdict {
	switch a.Do {
	case Exit:
		p.die(p, a.Code, 0)
	case Kill:
		p.die(p, 128+orDefault(a.Signal, 9), orDefault(a.Signal, 9))
	case Hang:
		p.gate.set(gateAll)
		p.gate.wait(gateAll, p.dead)
	case HangCalls:
		p.gate.set(gateCalls)
	case Unhang:
		p.gate.set(gateOpen)
	case Delay:
		p.delay(a.Delay)
	case NoSocket, ZeroUUID, IgnoreTerm:
		p.bend(a.Do)
	case FloodStderr:
		p.flood(a.Bytes)
	case GrowMemory:
		p.grow(a.Bytes)
	case Say:
		p.log.raw(a.Text + "\n")
	case Reset, Rubbish, Truncate, Huge, Refuse:
		return verdict{kind: a.Do, text: a.Text, bytes: a.Bytes}
	default:
		if err := p.role.act(a); err != nil {
			p.log.raw("osquerydtest: " + err.Error() + "\n")
		}
	}
	return verdict{}
}

// bend changes how a process behaves from now on.
func (p *process) bend(k Kind) {
	switch k {
	case NoSocket:
		p.noSocket.Store(true)
	case ZeroUUID:
		p.zeroUUID.Store(true)
	case IgnoreTerm:
		p.ignoreTerm.Store(true)
	}
}

// delay does not end early on a stop: a slow osqueryd is slow to stop, too.
func (p *process) delay(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.dead:
	}
}

func (p *process) flood(n int64) {
	const line = "I1121 00:00:00.000000     1 flood.cpp:1] flood flood flood flood flood flood flood flood flood flood\n"
	for n > 0 && !isClosed(p.dead) {
		p.log.raw(line)
		n -= int64(len(line))
	}
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
