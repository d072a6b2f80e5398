// Package osqvisor is the tour of an SDK for agents that embed osquery: one
// process runs any number of osqueryd instances, one for the vendor's own queries
// and one for each tenant, say, keeps each alive on its own, is their
// extension, and moves config, logs and queries over whatever connection the
// host already has. The package itself holds no code.
//
// # The shortest program
//
// The package runtime in it is the one of this module, not Go's own. myClient is an
// extension.Transport; without one, osqueryd runs with an empty config and its logs are
// discarded.
//
//	runner, err := runtime.New(
//		runtime.WithBinary("/usr/local/bin/osqueryd"),
//		runtime.WithRoot("/var/lib/agent/osquery"),
//		runtime.WithTransport(myClient),
//		runtime.WithInstance("vendor"),
//	)
//	if err != nil {
//		return err // every mistake in the options, at once
//	}
//	return runner.Run(ctx) // until ctx ends; nothing is left when it returns
//
// While it runs, and before, from any goroutine:
//
//	err = runner.Add("tenant-a", instance.WithLabels(labels))
//	err = runner.WaitReady(ctx, "tenant-a")
//	rows, err := runner.Query(ctx, "tenant-a", "select * from users")
//	err = runner.Remove(ctx, "tenant-a")
//
// # Where things are
//
// Package [github.com/osqvisor/osqvisor/runtime] owns the set: when an instance is
// started, tried again, and given up. Package
// [github.com/osqvisor/osqvisor/instance] owns one osqueryd: how it is started,
// watched, mended and stopped. Package
// [github.com/osqvisor/osqvisor/extension] is what osqueryd sees of the host:
// config, logs, distributed queries and tables, and the Transport that a host
// implements. Package [github.com/osqvisor/osqvisor/stats] is what the host is told:
// events, snapshots and health. Imports point down this list and never up.
//
// A Transport over osquery's own remote API, which Fleet, osctrl, SGT and others speak,
// is package [github.com/osqvisor/osqvisor/extension/remoteapi]. Package
// [github.com/osqvisor/osqvisor/extension/transporttest] tests a Transport of the
// host's own.
//
// Package [github.com/osqvisor/osqvisor/instance/osquerydtest] is an osqueryd to
// test against that needs nothing installed: real processes, the real protocol,
// and a script for misbehaviour.
//
// # Where to begin
//
// Run examples/quickstart, then read examples/miniagent, a whole agent on one page.
// examples/customtransport has a transport of one's own, examples/tlsagent one over
// the remote API, and examples/hostgroup a Runner among a host's other parts. What osqueryd is started with, and what is
// off by default, is said by package instance; when an instance is given up, by
// package runtime.
package osqvisor
