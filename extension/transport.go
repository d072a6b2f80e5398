package extension

import "context"

// Transport is how an instance reaches its server: the host's own client. One
// value may serve many instances; Node names the one that calls.
//
// Every method may be called from several goroutines at once, for one instance
// or for many, and must return when its context ends. A panic in it is caught
// and treated as an error. Errors are read with errors.Is and errors.As:
// [ErrNodeInvalid] enrols again, once, and repeats the call; [ErrPermanent] means
// that repeating cannot help; [RetryAfter] sets the earliest time. Every other error is
// tried again with backoff.
//
// A transport that does not do one of the three returns [ErrUnsupported] from it.
type Transport interface {
	ConfigSource
	LogSink
	QueryBroker
}

// ConfigSource is where an instance's config comes from.
type ConfigSource interface {
	// Config returns the config as osquery wants it: source name to JSON document.
	// It is called at osqueryd's start, at each refresh, and at PushConfig. An error leaves the last good config in force.
	Config(ctx context.Context, node Node) (map[string]string, error)
}

// LogSink is where an instance's logs go.
type LogSink interface {
	// PublishLogs delivers one batch. nil acknowledges all its lines; an error brings
	// the same batch again, with the same ID. Batches of one queue come in order and
	// one at a time. The lines must not be changed, nor kept after the call returns.
	PublishLogs(ctx context.Context, node Node, batch Batch) error
}

// QueryBroker returns distributed queries and accepts their results.
type QueryBroker interface {
	// Queries returns the queries to run now. An empty set is usual.
	Queries(ctx context.Context, node Node) (QuerySet, error)
	// WriteResults delivers results. An error brings the same results again.
	WriteResults(ctx context.Context, node Node, results []Result) error
}

// Enroller returns an instance its node key. A Transport that also is an Enroller
// is called before its first other call, and again after ErrNodeInvalid; at most
// one call an instance is under way, however many wait for it. ErrUnsupported means
// that there are no keys: the other calls are made without. After any other error they
// wait, and nothing that waits with them is given up, whatever the error. How often it is
// called is limited, see [Enrolment]; a new key that is refused by the first call made with
// it counts as a failed enrolment.
type Enroller interface {
	Enroll(ctx context.Context, req EnrollRequest) (nodeKey string, err error)
}

// PackSource resolves packs that a config only names, as in
// {"packs": {"name": "value"}}. It is optional for a Transport; without it such
// packs stay empty. The name "*" stands for an object of several packs.
type PackSource interface {
	// Pack returns the pack as a JSON document. It is called while a config is
	// fetched; an error is a refusal of the whole config.
	Pack(ctx context.Context, node Node, name, value string) (string, error)
}

// Node names the instance that calls. It is a copy; the maps in it are not to be changed.
type Node struct {
	// Instance is the instance's id, as the host named it.
	Instance string
	// Run is the id of the current run.
	Run string
	// Key is the node key from the Enroller; empty when there is none.
	Key string
	// HostIdentifier is what osqueryd calls this node in its logs, and what it is to be
	// enrolled as: what instance.WithHostIdentifier set, else the instance_id of osqueryd's
	// osquery_info. It is empty until osqueryd could be queried for that, or was once.
	HostIdentifier string
	// OsqueryVersion is the version of the binary, such as "5.23.0".
	OsqueryVersion string
	// Labels are the host's own labels of the instance.
	Labels map[string]string
}

// EnrollRequest is what an Enroller gets.
type EnrollRequest struct {
	Node Node
	// PlatformType is osquery's bitmask: posix 1, windows 2, bsd 4, linux 8, macos 16.
	PlatformType int
	// HostDetails holds rows of os_version, osquery_info, system_info and
	// platform_info, as far as osqueryd could be queried.
	HostDetails map[string]map[string]string
}
