// Package instance runs one osqueryd: an identity with a directory of its own,
// living through many runs.
//
// An [Instance] is made with [New], which validates everything and starts
// nothing. [Instance.Run] is one lifetime of its osqueryd: it prepares the
// directory, spawns the process, registers the instance's own extension, serves
// until its context ends or osqueryd dies, and returns only when nothing it
// made is left. It may be called again after it returned. Whether and when to
// do so is the business of package runtime; an Instance never restarts itself.
//
// While a run lives, the Instance repairs what can be repaired in place: when
// osqueryd replaces its worker, or forgets the extension, it is registered
// again and the run goes on.
//
// # What osqueryd is started with
//
// The plugins, paths, sockets, timeouts, watchdog and host identifier are set by the
// SDK, which [WithFlag] refuses to change; options set what a host may want otherwise.
// These are set too, and can be overridden by WithFlag:
//
//	disable_events=true                                event tables stay empty
//	disable_audit=true                                 Linux's audit has one owner a host
//	disable_carver=true, carver_disable_function=true  no files are carved
//	disable_tables=curl,curl_certificate,carves,yara   what reaches out, or reads any file
//	pack_delimiter=_                                   a colon would break osqueryd's denylist
//
// A config changes none of these, nor what else the instance relies on, nor a flag that
// WithFlag set, even where osqueryd would let it: see
// [github.com/osqvisor/osqvisor/extension.OwnedOptions]. Event tables are switched on by
// WithFlag alone. The flag file and the list of
// extensions of the host's own osquery are not read.
//
// What enrols is what logs: the hostIdentifier of an instance's logs, which is
// extension.Node.HostIdentifier, is osqueryd's instance_id, another one for each instance,
// unless [WithHostIdentifier] sets it.
//
// # Waits
//
// Every wait is bounded: by the caller's context, or by a field of [Timeouts], [Health]
// or [Queries], which names its default and range.
//
// # Code of the host
//
// Tables, transports, observers and health checkers may use the Instance, except for
// what the methods say. A table must not query its own instance: the query that asks
// the table has its turn until it is answered, so that the other would wait for it,
// and it for the other, until a context ends.
package instance
