package osquerydtest

import (
	"strings"
	"sync"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// director applies the rules of a script to one process, and reports its phases to the Fake. It counts how often each rule
// matched in the process.
type director struct {
	dir   string // where the Fake listens; empty without one
	rules []Rule

	link *link // nil without a Fake
	mu   sync.Mutex
	on   []ruleState
}

type ruleState struct {
	Rule
	seen int
}

// Identified connects to the Fake, which numbers the run, and selects the rules that concern the process.
func (d *director) Identified(p *fakeosqueryd.Process) {
	if d.dir != "" {
		d.link = dialFake(p, d.dir)
	}
	for _, r := range d.rules {
		if r.matches(p.ID()) {
			d.on = append(d.on, ruleState{Rule: r})
		}
	}
}

// Passes runs the rules of a phase, and tells the Fake when it is passed; before that, too, when rules act in between.
func (d *director) Passes(p *fakeosqueryd.Process, ph fakeosqueryd.Phase) {
	if ph == fakeosqueryd.PhaseStart {
		d.link.serve(p)
	}
	if due := d.due(Phase(ph), ""); len(due) > 0 {
		d.link.send(&message{Phase: Phase(ph), Reached: true})
		actAll(p, due)
	}
	d.link.send(&message{Phase: Phase(ph)})
}

// Call runs the rules of a phase with the SQL or the name at hand.
func (d *director) Call(p *fakeosqueryd.Process, ph fakeosqueryd.Phase, text string) fakeosqueryd.Fault {
	return actAll(p, d.due(Phase(ph), text))
}

// due selects under the lock; actions run without it, as they may block.
func (d *director) due(ph Phase, text string) []Action {
	if len(d.on) == 0 { // never written after the start
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Action
	for i := range d.on {
		r := &d.on[i]
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

// actAll does actions in turn, and returns the last that shapes an answer.
func actAll(p *fakeosqueryd.Process, actions []Action) fakeosqueryd.Fault {
	var f fakeosqueryd.Fault
	for _, a := range actions {
		if a.shapesAnswers() {
			f = fakeosqueryd.Fault{Kind: fakeosqueryd.FaultKind(a.Do), Text: a.Text, Bytes: a.Bytes}
		} else if err := act(p, a); err != nil {
			p.Say("osquerydtest: " + err.Error())
		}
	}
	return f
}

func (a Action) shapesAnswers() bool {
	switch a.Do {
	case Reset, Rubbish, Truncate, Huge, Refuse:
		return true
	}
	return false
}

// act does one action that shapes no answer.
func act(p *fakeosqueryd.Process, a Action) error {
	switch a.Do {
	case Exit:
		p.Die(a.Code, 0)
	case Kill:
		signal := a.Signal
		if signal == 0 {
			signal = 9
		}
		p.Die(128+signal, signal)
	case Hang:
		p.Hang()
		p.WaitUnhang()
	case Delay:
		p.Delay(a.Delay)
	case GrowMemory:
		p.Grow(a.Bytes)
	case DropRegistration:
		return p.DropRegistration(a.Text)
	case DeleteSocket:
		return p.DeleteSocket()
	case CloseConnections:
		return p.CloseConnections()
	case WatchdogMemory:
		return p.OverMemory(a.Bytes)
	case WatchdogCPU:
		return p.OverCPU()
	default:
		bend(p, a)
	}
	return nil
}

// bend changes how a process behaves from now on.
func bend(p *fakeosqueryd.Process, a Action) {
	switch a.Do {
	case HangCalls:
		p.HangCalls()
	case Unhang:
		p.Unhang()
	case NoSocket:
		p.NeverListen()
	case ZeroUUID:
		p.NextUUIDZero()
	case IgnoreTerm:
		p.IgnoreTerm()
	case FloodStderr:
		p.Flood(a.Bytes)
	case Say:
		p.Say(a.Text)
	}
}
