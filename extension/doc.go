// Package extension is what osqueryd sees of an instance: a config, a logger and
// a distributed plugin and the host's own tables, over a [Transport] that the host
// brings.
//
// A Transport is the host's own client: it gives configs, takes batches of logs,
// hands out distributed queries and takes their results. It may serve one instance
// or many; a [Node] in each call says who is asking. [Funcs] makes one from
// functions, [Memory] keeps everything in memory, and the package remoteapi speaks
// osquery's remote API. The package transporttest tests any of them.
//
// # Config
//
// osqueryd asks for its config at its start and at each refresh. The extension
// asks the source, parses what it gets more strictly than osqueryd does, takes out
// options that a config must not set ([OwnedOptions]), lets the host's
// [ConfigPolicy] change or refuse it, and hands it to osqueryd. When osqueryd has run with it for
// a while ([WithConfigProbation]), it is kept on disk as the last good one; when osqueryd
// dies with it twice before, it is set aside. What would end osqueryd, or cost it its whole
// schedule, never reaches it; what it leaves out alone, such as a query without a valid
// interval, is announced as [stats.ConfigPartIgnored] and passed on with the rest. A source
// that fails or is slow is covered by the last good config; what it says later goes to the
// [WithLateConfig] hook.
//
// # Logs
//
// osqueryd hands over one line at a time and waits. The line is appended to a
// queue on disk, byte for byte, and osqueryd is answered 0, whatever happens: it
// ends itself when a result is refused. Results, snapshots and status lines have a
// queue each. [Extension.Run] ships them in batches, in order, each queue on its
// own. A batch has an id that is the same at every try and after every restart, so
// that a server can drop what it has. The id is made of the instance's and of line
// numbers: it is the instance's own and no other's on this host, but another host has
// the same ones, so a server has to look at it together with who sent it. What
// cannot be kept is counted and announced.
//
// # Distributed queries
//
// What osqueryd answers is on disk before osqueryd hears that it was written, and
// is delivered from there, after a restart of the host too. A discovery query that
// fails, which makes osqueryd drop the whole set in silence, is asked by the
// extension instead ([WithDiscovery]), and its failure is the answer.
//
// # Enrolment
//
// A Transport that is an [Enroller] is asked for a node key before its first other
// call. At most one enrolment of an instance is under way, its key is kept, and
// [ErrNodeInvalid] from any call enrols again, once, and repeats the call. Enrolments are
// limited, for one instance and for several together ([WithEnrolment]). While there is no
// key, calls fail at once; the extension goes on enrolling by itself, and hands a config
// that osqueryd waits for to the [WithLateConfig] hook as soon as there is one.
//
// # Code of the host
//
// Everything that the host brings is called with a context, bounded in time, and
// with panics contained. No lock is held meanwhile, and no call of one kind is made
// beside one that has not returned.
package extension
