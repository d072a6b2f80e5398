package bench

import (
	"context"
	"errors"
	"time"

	osquery "github.com/osquery/osquery-go"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// badStartGroup measures an osqueryd that exits at once: until the host knows,
// and the zombies that are left. The floor is the process's own time.
func badStartGroup() Group {
	return Group{
		Name: "bad start", Fake: true,
		Rows: []Row{
			{Work: "bad start to report", Unit: "ms", Goal: Goal{Kind: AtMostMore, Bound: 50, Of: Floor}},
			{Work: "zombies of a bad start", Unit: "", Goal: Goal{Kind: AtMost}},
		},
		Open: openBadStart,
	}
}

func openBadStart(_ context.Context, env *Env) (*Job, error) {
	binary, err := env.scripted(osquerydtest.Script{Rules: []osquerydtest.Rule{{
		Phase: osquerydtest.PhaseStart, Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 78},
	}}})
	if err != nil {
		return nil, err
	}
	env = env.with(binary)
	root, err := env.newDir()
	if err != nil {
		return nil, err
	}
	in, err := instance.New("bad", instance.WithBinary(binary), instance.WithRoot(root),
		instance.WithWatchdog(instance.Watchdog{Disabled: true}))
	if err != nil {
		return nil, err
	}
	return &Job{
		Steps: []Step{
			func(ctx context.Context) ([]Sample, error) { return badStart(ctx, in) },
			one(0, Floor, func(context.Context) (float64, error) {
				began := time.Now()
				b, err := env.spawn(spawnOptions{})
				if err != nil {
					return 0, err
				}
				<-b.exited
				return millis(time.Since(began)), nil
			}),
			env.badStartPlain,
		},
		Close: func() { _ = in.Close(context.Background()) },
	}, nil
}

func badStart(ctx context.Context, in *instance.Instance) ([]Sample, error) {
	before := zombies()
	began := time.Now()
	err := in.Run(ctx)
	took := time.Since(began)
	exit, ok := errors.AsType[*instance.ExitError](err)
	if !ok || exit.Code != 78 {
		return nil, errors.Join(errors.New("the exit was not reported as what it was"), err)
	}
	return []Sample{{0, Ours, millis(took)}, {1, Ours, float64(zombies() - before)}}, nil
}

// badStartPlain starts, and waits for the socket, as the README has it.
func (e *Env) badStartPlain(context.Context) ([]Sample, error) {
	before := zombies()
	began := time.Now()
	b, err := e.spawnUnwaited(spawnOptions{plugin: pluginName})
	if err != nil {
		return nil, err
	}
	_, err = osquery.NewExtensionManagerServer(pluginName, b.socket)
	took := time.Since(began)
	if err == nil {
		return nil, errors.New("osqueryd came up although it should not")
	}
	left := zombies() - before
	_ = b.cmd.Wait()
	return []Sample{{0, Plain, millis(took)}, {1, Plain, float64(left)}}, nil
}
