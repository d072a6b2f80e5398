package extension

import (
	"context"
	"encoding/json"
)

// Transport is how an instance reaches its server: the host's own client. One
// value may serve many instances; Node says which of them is asking.
//
// Every method may be called from several goroutines at once, for one instance
// or for many, and must return when its context ends. A panic in it is caught
// and treated as an error. Errors are read with errors.Is and errors.As:
// [ErrNodeInvalid] enrols again, once, and repeats the call; [ErrPermanent] says
// that repeating cannot help; [RetryAfter] says not before. Every other error is
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
	// Config gives the config as osquery wants it: source name to JSON document.
	// It is called when osqueryd asks: at its start, at each refresh, and at
	// PushConfig. An error leaves the last good config in force.
	Config(ctx context.Context, node Node) (map[string]string, error)
}

// LogSink is where an instance's logs go.
type LogSink interface {
	// PublishLogs takes one batch. Returning nil acknowledges all its lines; an
	// error brings the same batch again, with the same ID. Batches of one queue
	// come in order and one at a time. The lines must not be kept or changed
	// after the call returns.
	PublishLogs(ctx context.Context, node Node, batch Batch) error
}

// QueryBroker hands out distributed queries and takes their results.
type QueryBroker interface {
	// Queries gives the queries to run now. An empty set is usual.
	Queries(ctx context.Context, node Node) (QuerySet, error)
	// WriteResults takes results. An error brings the same results again.
	WriteResults(ctx context.Context, node Node, results []Result) error
}

// Enroller gives an instance its node key. A Transport that also is an Enroller
// is asked before its first other call, and again after ErrNodeInvalid; at most
// one call an instance is under way, however many wait for it. ErrUnsupported says
// that there are no keys: the other calls are made without. After any other error they
// wait, and nothing that waits with them is given up, whatever the error. How often it is
// called is limited, see [Enrolment]; a new key that is refused by the first call made with
// it counts as a failed enrolment.
type Enroller interface {
	Enroll(ctx context.Context, req EnrollRequest) (nodeKey string, err error)
}

// PackSource resolves packs that a config only names, as in
// {"packs": {"name": "value"}}. It is optional for a Transport; without it such
// packs stay empty. The name "*" asks for an object of several packs.
type PackSource interface {
	// Pack gives the pack as a JSON document. It is called while a config is
	// fetched; an error is a refusal of the whole config.
	Pack(ctx context.Context, node Node, name, value string) (string, error)
}

// Carver takes the parts of file carves. The extension does not call it: osqueryd's carver
// speaks to a server of its own. It is for a host that takes carves itself.
type Carver interface {
	// StartCarve begins a carve and gives the session's id.
	StartCarve(ctx context.Context, node Node, req CarveRequest) (session string, err error)
	// CarveBlock takes one block of it.
	CarveBlock(ctx context.Context, node Node, block CarveBlock) error
}

// Node says which instance is asking. It is a copy; the maps in it are not to be changed.
type Node struct {
	// Instance is the instance's id, as the host named it.
	Instance string
	// Run is the id of the current run.
	Run string
	// Key is the node key from the Enroller; empty when there is none.
	Key string
	// HostIdentifier is what osqueryd calls this node in its logs, and what it is to be
	// enrolled as: what instance.WithHostIdentifier set, else the instance_id of osqueryd's
	// osquery_info. It is empty until osqueryd could be asked for that, or was once.
	HostIdentifier string
	// OsqueryVersion is the version of the binary, such as "5.23.0".
	OsqueryVersion string
	// Labels are the host's own words about the instance.
	Labels map[string]string
}

// Queue names one of the three kinds of log.
type Queue string

// The queues. They are kept and shipped apart, so that none starves another.
const (
	// QueueResults holds differential and event results.
	QueueResults Queue = "results"
	// QueueSnapshots holds snapshot results.
	QueueSnapshots Queue = "snapshots"
	// QueueStatus holds osqueryd's own status lines.
	QueueStatus Queue = "status"
)

// Batch is what a LogSink is handed: consecutive lines of one queue.
type Batch struct {
	// ID is stable: the same lines have the same ID at every try, after a restart
	// too, so that a server can drop what it has already. It is unique for ever, over all
	// hosts, queues and directories: no other lines ever have it.
	ID string
	// Queue says what kind of lines these are.
	Queue Queue
	// Epoch names what First and Last count in: 32 random hexadecimal digits that are
	// kept with the queue. A new epoch begins when nothing proves that the numbers go on
	// where they ended: the instance's directory is new, or the queue's files were
	// deleted, damaged or lost to a power cut.
	Epoch string
	// First and Last are the sequence numbers of the first and last line. Within an epoch
	// they only rise, and no number is given to two lines. A new queue counts from 1; one
	// that lost its epoch alone goes on counting.
	First, Last uint64
	// Lines are osqueryd's own bytes, one JSON document a line. No line holds a line feed or
	// a carriage return, and none is blank: line breaks at the end are cut off, those between
	// the values of a document are replaced by spaces, and those in what is no JSON by the two
	// characters \n or \r. A batch that the extension hands over has at least one line.
	//
	// Lines of QueueStatus are in the form that osqueryd's own TLS logger sends, and servers read:
	// hostIdentifier, calendarTime, unixTime, severity, filename, line, message, version and
	// decorations; unixTime, severity and line are numbers, and strings until osquery 5.10.
	// osqueryd hands a logger plugin no decorations of status lines, so they are those of the
	// newest result that was sent since the start of the process. Before the first one, and with
	// decorations_top_level, there are none.
	Lines [][]byte
	// Bytes is the sum of the lengths of Lines.
	Bytes int
	// Try counts the deliveries of this batch in this process, from 1.
	Try int
	// Signature is the detached signature over SignedBytes, when a signer is set.
	Signature []byte
}

// QuerySet is what a QueryBroker hands out.
type QuerySet struct {
	// Queries maps an id, which the results bear, to SQL.
	Queries map[string]string
	// Discovery maps ids to SQL; a query runs only if the discovery query of the
	// same id returns rows. Ids without one always run.
	Discovery map[string]string
	// AccelerateSeconds makes osqueryd ask every 5 s for that long; 0 changes nothing.
	AccelerateSeconds int
}

// Result is the answer to one distributed query.
type Result struct {
	ID string
	// Status is 0 when it ran, else osquery's code.
	Status int
	// Message is osquery's error text; empty when there is none.
	Message string
	// Rows is the JSON array of rows exactly as osqueryd wrote it.
	Rows json.RawMessage
	// Stats is what it cost; nil when osqueryd did not say.
	Stats *QueryStats
}

// QueryStats is what a query cost, as osqueryd measured it.
type QueryStats struct {
	WallTimeMS int64 `json:"wall_time_ms"`
	UserTime   int64 `json:"user_time"`   // milliseconds
	SystemTime int64 `json:"system_time"` // milliseconds
	Memory     int64 `json:"memory"`      // bytes
}

// EnrollRequest is what an Enroller is told.
type EnrollRequest struct {
	Node Node
	// PlatformType is osquery's bitmask: posix 1, windows 2, bsd 4, linux 8, macos 16.
	PlatformType int
	// HostDetails holds rows of os_version, osquery_info, system_info and
	// platform_info, as far as osqueryd could be asked.
	HostDetails map[string]map[string]string
}

// CarveRequest announces a carve.
type CarveRequest struct {
	BlockCount, BlockSize, CarveSize int64
	CarveID, RequestID               string
}

// CarveBlock is one block of a carve.
type CarveBlock struct {
	BlockID            int64
	Session, RequestID string
	Data               []byte
}
