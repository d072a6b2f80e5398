// Package extension is the contract between an instance of osqueryd and the host's own server, and
// how it is tuned: configs, logs, distributed queries, enrolment and tables.
//
// A [Transport] is the host's own client: it returns configs and distributed queries, and accepts
// batches of logs and the results of queries. It may serve one instance or many; a [Node] in each
// call names the instance. [Funcs] makes one from functions, [Memory] keeps everything in memory,
// and the package remoteapi speaks osquery's remote API. [StatusError] returns what an
// HTTP status means. The package transporttest tests any transport.
//
// # Config
//
// osqueryd fetches its config at its start and at each refresh. The instance calls the source,
// removes options that a config must not set ([OwnedOptions]), and lets the host's [ConfigPolicy]
// change or refuse the rest. A config that would end osqueryd, or cost it its whole schedule, is
// refused; a part that osqueryd ignores, such as a query without a valid interval, is announced by
// [stats.ConfigPartIgnored]. A config that osqueryd has run with for a while (Config.Probation) is
// kept on disk as the last good one, which covers a source that fails or is slow; one that it dies
// with twice before is set aside. A config that comes late is pushed.
//
// # Logs
//
// osqueryd passes one line at a time. It is appended to a queue on disk, and osqueryd gets the
// status 0 whatever happens, since it ends itself when a result is refused. Results, snapshots and
// status lines have a queue each, which is delivered in batches, in order. The id of a [Batch] is the
// same at every try and after every restart, so that a server can drop what it has. What cannot be
// kept is counted and announced. [Logs] has the limits, [Delivery] when a line is given up.
//
// # Distributed queries
//
// What osqueryd answers is on disk before osqueryd gets the status of its write, and is delivered
// from there, after a restart of the host too. A discovery query that fails, which makes osqueryd
// drop the whole set in silence, is run by the instance itself, and its failure is the answer.
//
// # Enrolment
//
// A Transport that is an [Enroller] is called for a node key before its first other call. The key is
// kept ([NodeKeyStore]), and [ErrNodeInvalid] from any call enrols again, once, and repeats the call.
// While there is no key, calls fail at once, and the instance goes on enrolling by itself, as often
// as [Enrolment] lets it; then it pushes the config that osqueryd waits for.
//
// # Code of the host
//
// Everything that the host brings is called with a context, bounded in time, and with panics
// contained. No lock is held meanwhile, and no call of one kind is made beside one that has not
// returned.
package extension
