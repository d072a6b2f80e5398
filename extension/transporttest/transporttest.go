// Package transporttest is a conformance suite for [extension.Transport], for a host to run
// on its own implementation.
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

// Harness is a transport under test with the server's side of it. It serves one test; its
// methods may be called from several goroutines at once, and it cleans up by t.Cleanup.
type Harness interface {
	// Transport returns the transport, the same at each call. If it is an
	// extension.Enroller, the suite enrols every instance first.
	Transport() extension.Transport
	// Received returns the batches that the server accepted from an instance, in the order
	// of arrival, with or without repeated ones. Bytes and Try are ignored.
	Received(instance string) []extension.Batch
	// Results returns the results that the server accepted from an instance.
	Results(instance string) []extension.Result
	// SetConfig sets an instance's config.
	SetConfig(instance string, config map[string]string)
	// SetQueries sets what an instance's next Queries call returns.
	SetQueries(instance string, set extension.QuerySet)
	// FailNext makes the server fail the next n calls of any instance and method, except
	// Enroll. It replaces the failure set before.
	FailNext(failure Failure, n int)
	// Limits returns what the transport or the harness cannot do.
	Limits() Limits
}

// Failure is a way for a server to fail.
type Failure struct {
	Kind Kind
	// After is the wait of a RetryAfter, in whole seconds.
	After time.Duration
}

// Kind is a kind of [Failure].
type Kind string

// The kinds.
const (
	Temporary  Kind = "temporary"   // any other failure, such as status 500
	RetryAfter Kind = "retry after" // extension.RetryAfterError
	// NodeInvalid is extension.ErrNodeInvalid; the server need not really forget the key.
	NodeInvalid Kind = "node invalid"
	Permanent   Kind = "permanent" // extension.ErrPermanent
	TooLarge    Kind = "too large" // extension.ErrTooLarge, if Limits.Also contains TooLarges
	Hang        Kind = "hang"      // no answer until the call's context ends
	// LostAnswer is a success of which the client sees only an error. A transport may repeat
	// the call, with the same batch ID.
	LostAnswer Kind = "lost answer"
)

// Feature is something that a transport may be unable to do.
type Feature string

// The features of Limits.Cannot.
const (
	// Without Logs, Configs or Queries, their methods return extension.ErrUnsupported.
	Logs    Feature = "logs"
	Configs Feature = "configs"
	Queries Feature = "queries"

	BatchIDs   Feature = "batch ids"  // ID, First and Last arrive
	Queues     Feature = "queues"     // the server can distinguish the three queues
	Signatures Feature = "signatures" // Signature arrives
	Sources    Feature = "sources"    // a config of several sources; without it, Limits.Source
	Discovery  Feature = "discovery"  // discovery queries arrive
	Accelerate Feature = "accelerate" // AccelerateSeconds arrives
	Stats      Feature = "stats"      // results arrive with their Stats

	// The kinds of failure of the same names.
	RetryAfters  Feature = "retry after"
	NodeInvalids Feature = "node invalid"
	Permanents   Feature = "permanent"
	Hangs        Feature = "hang"
	LostAnswers  Feature = "lost answer"
)

// The features of Limits.Also, which not every transport needs.
const (
	// TooLarges: a batch that is too large is distinguished from one that is refused.
	TooLarges Feature = "too large"
	// ExactBytes: lines and rows arrive byte for byte, as signatures need. Without it they
	// arrive as equal JSON values.
	ExactBytes Feature = "exact bytes"
	// NotJSON: lines that are not JSON arrive unchanged.
	NotJSON Feature = "not JSON"
)

// Limits describes a transport. The zero value means that all of Cannot works.
type Limits struct {
	// Cannot maps missing features to the reason, which the tests that are skipped report.
	Cannot map[Feature]string
	// Also lists further features to test.
	Also []Feature
	// Source is the name of a config's one source, without Sources.
	Source string
	// MaxBatch is the size of the largest batch in bytes; default 8 MiB.
	MaxBatch int
	// MaxLine is the size of the largest line in bytes; default more than 1 MiB.
	MaxLine int
	// CancelWithin is how soon a call returns after its context ends; default 2 s.
	CancelWithin time.Duration
	// SpareGoroutines is how many goroutines 32 cancelled calls may leave for a while;
	// default 8. A method CloseIdleConnections of the transport is called first.
	SpareGoroutines int
}

// Run runs every case as a subtest, each with a new harness.
func Run(t *testing.T, newHarness func(t *testing.T) Harness) {
	t.Helper()
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) { c.runOn(t, newHarness(t)) })
	}
}
