// Package osqvisor documents an SDK for agents that embed osquery. One process runs any
// number of osqueryd instances, for example one for the vendor's own queries and one for each
// tenant. It restarts each of them independently, registers an extension with each, and
// transfers configs, logs and queries over a connection that the host already has. This
// package has no code.
//
// # A first program
//
// Package runtime is the one of this module, not Go's own. client is an extension.Transport;
// without one, osqueryd runs with an empty config and its logs are discarded.
//
//	runner, err := runtime.New(
//		runtime.WithBinary("/usr/local/bin/osqueryd"),
//		runtime.WithRoot("/var/lib/agent/osquery"),
//		runtime.WithTransport(client),
//		runtime.WithInstance("vendor"),
//	)
//	if err != nil {
//		return err // every mistake in the options
//	}
//	return runner.Run(ctx) // returns after ctx ends, when no process or goroutine is left
//
// Before and during Run, from any goroutine:
//
//	if err := runner.Add("tenant-a", instance.WithLabels(labels)); err != nil {
//		return err
//	}
//	if err := runner.WaitReady(ctx, "tenant-a"); err != nil {
//		return err
//	}
//	return runner.Remove(ctx, "tenant-a")
//
// # Reading rows
//
// A query returns instance.Rows: osqueryd's texts, to read by column, to marshal to JSON, or
// to convert to structs.
//
//	rows, err := runner.Query(ctx, "tenant-a", "select name, pid, resident_size from processes")
//	if err != nil {
//		return err
//	}
//	for _, row := range rows.All() {
//		fmt.Println(row.Get("name"), row.Get("pid"))
//	}
//	type process struct {
//		Name string
//		PID  int
//		Size int64 `osquery:"resident_size"`
//	}
//	processes, err := instance.CollectRows[process](rows)
//
// # Packages
//
//   - [github.com/osqvisor/osqvisor/runtime] manages the set of instances: when each is
//     started, restarted and parked.
//   - [github.com/osqvisor/osqvisor/instance] runs one osqueryd: flags, start, health checks,
//     stop, queries.
//   - [github.com/osqvisor/osqvisor/extension] is what a host implements and configures: the
//     Transport, tables, and the handling of configs, logs and distributed queries.
//   - [github.com/osqvisor/osqvisor/stats] has the events, snapshots and health that a host
//     observes.
//   - [github.com/osqvisor/osqvisor/extension/remoteapi] is a Transport over osquery's remote
//     API, for Fleet, osctrl, SGT and others.
//   - [github.com/osqvisor/osqvisor/extension/transporttest] tests a host's own Transport.
//   - [github.com/osqvisor/osqvisor/instance/osquerydtest] is a fake osqueryd for tests, which
//     needs no osquery.
//
// Of the first four, each imports only those below it.
//
// # Next steps
//
// Run examples/quickstart. Then read examples/customtransport for a Transport of your own,
// examples/tlsagent for one over the remote API, and examples/hostgroup for a Runner among
// other parts of a host. Package instance documents the flags of osqueryd and what is off by
// default, package runtime when an instance is parked.
package osqvisor
