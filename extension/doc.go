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
// osqueryd asks for its config at its start and at each refresh. The instance calls the source,
// parses the answer more strictly than osqueryd does, removes options that a config must not set
// ([OwnedOptions]), lets the host's [ConfigPolicy] change or refuse it, and returns it to osqueryd.
// When osqueryd has run with it for a while (Config.Probation), it is kept on disk as the last good
// one; when osqueryd dies with it twice before, it is set aside. What would end osqueryd, or cost it
// its whole schedule, never reaches it; a part that osqueryd ignores, such as a query without a valid
// interval, is announced by [stats.ConfigPartIgnored] and passed on with the rest. A source that
// fails or is slow is covered by the last good config; a config that comes later is pushed.
//
// # Logs
//
// osqueryd passes one line at a time and waits. The line is appended to a queue on disk, byte for
// byte, and osqueryd gets the status 0, whatever happens: it ends itself when a result is refused.
// Results, snapshots and status lines have a queue each. They are delivered in batches, in order, each
// queue on its own. A batch has an id that is the same at every try and after every restart, so that
// a server can drop what it has. The id is made of the instance's and of line numbers, with a random
// epoch of the queue, so that no other lines ever have it. What cannot be kept is counted and
// announced. [Logs] has the limits, [Delivery] when a line is given up.
//
// # Distributed queries
//
// What osqueryd answers is on disk before osqueryd gets the status of its write, and is delivered
// from there, after a restart of the host too. A discovery query that fails, which makes osqueryd
// drop the whole set in silence, is run by the instance itself, and its failure is the answer.
//
// # Enrolment
//
// A Transport that is an [Enroller] is called for a node key before its first other call. At most
// one enrolment of an instance is under way, its key is kept ([NodeKeyStore]), and [ErrNodeInvalid]
// from any call enrols again, once, and repeats the call. [Enrolment] limits how often. While there
// is no key, calls fail at once; the instance goes on enrolling by itself, and pushes a config that
// osqueryd waits for as soon as there is one.
//
// # Code of the host
//
// Everything that the host brings is called with a context, bounded in time, and with panics
// contained. No lock is held meanwhile, and no call of one kind is made beside one that has not
// returned.
package extension
