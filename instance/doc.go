// Package instance runs one osqueryd: an identity with a directory of its own,
// living through many runs.
//
// [New] checks everything and starts nothing. [Instance.Run] is one lifetime of
// osqueryd: it prepares the directory, spawns the process, registers the instance's
// extension, serves until its context ends or osqueryd exits, and returns only when
// nothing of the run is left. A worker that osqueryd replaces and a registration that it
// loses are repaired in place. An Instance never restarts itself; package runtime does.
//
// # What osqueryd is started with
//
// The SDK sets the plugins, paths, sockets, timeouts, watchdog and host identifier;
// [WithFlag] cannot change them. It can override these:
//
//	disable_events=true                                event tables stay empty
//	disable_audit=true                                 Linux's audit has one owner a host
//	disable_carver=true, carver_disable_function=true  no files are carved
//	disable_tables=curl,curl_certificate,carves,yara   what reaches out, or reads any file
//	pack_delimiter=_                                   a colon would break osqueryd's denylist
//
// A config cannot change any of these, nor a flag that WithFlag set. Neither the flag file
// nor the list of extensions of the host's own osquery is read.
//
// The hostIdentifier in an instance's logs is what the instance enrols as: osqueryd's
// instance_id, unless [WithHostIdentifier] sets another.
//
// # Waits and callbacks
//
// Every wait is bounded: by the caller's context, or by a field of [Timeouts], [Health]
// or [Queries].
//
// Tables, transports, observers and health checks may call any method except those that
// would deadlock; their comments state it. A table must not query its own instance: its query would
// wait for the one that reads the table.
package instance
