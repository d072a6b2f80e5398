// Package transporttest is a conformance suite for [extension.Transport]: a host
// runs it on its own client, and knows that the extension can rely on it.
//
//	func TestTransport(t *testing.T) {
//		transporttest.Run(t, func(t *testing.T) transporttest.Harness {
//			return newHarness(t) // a fresh transport and the server's side of it
//		})
//	}
//
// [extension.Memory], a transport without a network, passes it.
package transporttest

import (
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// Harness is a transport under test together with what the suite must see and do
// on the server's side. It serves one test; its methods may be called from several
// goroutines at once. What it starts it ends by t.Cleanup.
type Harness interface {
	// Transport gives the transport, the same at each call. If it is an
	// extension.Enroller too, the suite enrols every instance first.
	Transport() extension.Transport
	// Received gives the batches that the server took from an instance, in the
	// order of their arrival; repeated ones may be listed or dropped by ID. Bytes
	// and Try need not be filled in.
	Received(instance string) []extension.Batch
	// Results gives the results that the server took from an instance.
	Results(instance string) []extension.Result
	// SetConfig sets what the server gives an instance as config from now on.
	SetConfig(instance string, config map[string]string)
	// SetQueries sets what the server gives an instance at its next Queries call.
	SetQueries(instance string, set extension.QuerySet)
	// FailNext makes the server fail the next n calls of any instance, of whatever
	// method but Enroll. It replaces what is left of the one before; n = 0 only
	// ends that.
	FailNext(failure Failure, n int)
	// Limits says what the transport or the harness cannot do.
	Limits() Limits
}

// Failure is one way for a server to fail.
type Failure struct {
	Kind Kind
	// After is the wait that a RetryAfter asks for; a whole number of seconds.
	After time.Duration
}

// Kind is a kind of [Failure].
type Kind string

// The kinds.
const (
	// Temporary is a failure like any other, such as status 500.
	Temporary Kind = "temporary"
	// RetryAfter is a failure that says when to come back: extension.RetryAfterError.
	RetryAfter Kind = "retry after"
	// NodeInvalid is the refusal of the node key: extension.ErrNodeInvalid. The
	// refused call must have had no effect; the key need not really be forgotten.
	NodeInvalid Kind = "node invalid"
	// Permanent is a refusal of data that will be refused again:
	// extension.ErrPermanent.
	Permanent Kind = "permanent"
	// TooLarge is a refusal of log lines, none of which were taken, because of their
	// size: extension.ErrTooLarge. Only harnesses that name [TooLarges] are asked for it.
	TooLarge Kind = "too large"
	// Hang is no answer at all until the call's context ends.
	Hang Kind = "hang"
	// LostAnswer is a success of which the client learns nothing but an error. A
	// transport may then repeat the call on its own, with the same batch ID.
	LostAnswer Kind = "lost answer"
)

// Feature is something that a transport may be unable to do by its nature.
type Feature string

// The features. A case that rests on a missing one is skipped with the harness's
// reason; where only a part of a case does, that part is left out and logged.
const (
	// Logs, Configs and Queries are the three parts of a transport; a missing one
	// returns extension.ErrUnsupported.
	Logs    Feature = "logs"
	Configs Feature = "configs"
	Queries Feature = "queries"
	// BatchIDs: ID, First and Last arrive at the server.
	BatchIDs Feature = "batch ids"
	// Queues: the server can tell all three queues apart.
	Queues Feature = "queues"
	// Signatures: Signature arrives at the server.
	Signatures Feature = "signatures"
	// Sources: a config may have several sources of any name. Without it there is
	// one, called Limits.Source.
	Sources Feature = "sources"
	// Discovery and Accelerate are handed out with the queries.
	Discovery  Feature = "discovery"
	Accelerate Feature = "accelerate"
	// Stats arrive with results.
	Stats Feature = "stats"
	// The kinds of failure of the same names.
	RetryAfters  Feature = "retry after"
	NodeInvalids Feature = "node invalid"
	Permanents   Feature = "permanent"
	Hangs        Feature = "hang"
	LostAnswers  Feature = "lost answer"
)

// The features beyond what every transport needs. They are tested only when
// Limits.Also names them.
const (
	// TooLarges: the transport tells a batch that is too large for the server from
	// one that is refused, and FailNext knows the [TooLarge] kind.
	TooLarges Feature = "too large"
	// ExactBytes: lines and rows arrive byte for byte, those that are not valid UTF-8 too.
	// Without it they arrive as the same JSON values; a transport that puts them into a JSON
	// document may change white space and escapes. A signature is over the exact bytes.
	ExactBytes Feature = "exact bytes"
	// NotJSON: lines that are no JSON arrive as they were.
	NotJSON Feature = "not JSON"
)

// Limits are what a harness declares about its transport. The zero value declares
// that everything works.
type Limits struct {
	// Cannot gives the reason for each missing feature. An empty reason is refused.
	Cannot map[Feature]string
	// Also names the features beyond what every transport needs that are tested.
	Also []Feature
	// Source is the name of a config's one source; it is needed without Sources.
	Source string
	// MaxBatch is the largest batch in bytes; 0 means that 8 MiB pass.
	MaxBatch int
	// MaxLine is the largest line in bytes; 0 means that 1 MiB and more pass.
	MaxLine int
	// CancelWithin is how soon a call returns when its context ends; 0 means 2 s.
	CancelWithin time.Duration
	// SpareGoroutines is how many goroutines 32 cancelled calls may leave behind
	// for a while; 0 means 8. Those of idle connections need not be counted in when
	// the transport has a method CloseIdleConnections(), which is called first.
	SpareGoroutines int
}

// Run runs every case as a subtest, each on a harness of its own.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) { c.runOn(t, newHarness(t)) })
	}
}
