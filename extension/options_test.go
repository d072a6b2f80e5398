package extension

import (
	"crypto"
	"io"
	"strings"
	"testing"
	"time"
)

// oddSigner has a key that no signature can be checked with.
type oddSigner struct{}

func (oddSigner) Public() crypto.PublicKey                                  { return "key" }
func (oddSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil }

// TestMisuseIsRefusedByNameAndReason tries each misuse alone: it is the one thing
// that New complains of.
func TestMisuseIsRefusedByNameAndReason(t *testing.T) {
	for _, c := range []struct {
		option Option
		want   string
	}{
		{WithNode(nil), "WithNode: missing"},
		{WithDir(""), "WithDir: missing"},
		{WithDir("data/x"), `WithDir: "data/x" is relative`},
		{WithName(""), `WithName: "" is not a plugin name`},
		{WithName("a b"), `WithName: "a b" is not a plugin name`},
		{WithName(strings.Repeat("x", 65)), "WithName: "},
		{WithTables(nil), "WithTables: "},
		{WithTables(hostTable("a-b", rows)), `WithTables: `},
		{WithTables(hostTable("x", rows), hostTable("x", rows)), `WithTables: `},
		{WithTables(&badTable{}), "WithTables: "},
		{WithLogger(nil), "WithLogger: nil"},
		{WithConfigTimeout(0), "WithConfigTimeout: 0s is not a wait"},
		{WithTransportTimeout(-1), "WithTransportTimeout: -1ns is not a wait"},
		{WithAnswerTimeout(0), "WithAnswerTimeout: 0s is not a wait"},
		{WithTableTimeout(0), "WithTableTimeout: 0s is not a wait"},
		{WithDrain(-time.Second), "WithDrain: -1s is negative"},
		{WithConfigLimit(1), "WithConfigLimit: 1 bytes"},
		{WithConfigLimit(4<<20 + 1), "WithConfigLimit: 4194305 bytes"},
		{WithConfigProbation(-1), "WithConfigProbation: -1ns is not"},
		{WithConfigProbation(25 * time.Hour), "WithConfigProbation: 25h0m0s is not"},
		{WithSync(SyncEvery(0)), "WithSync: an interval of 0s"},
		{WithSync(SyncEvery(-1)), "WithSync: an interval of -1ns"},
		{WithLogBatch(0, 1, 0), "WithLogBatch: 0 lines"},
		{WithLogBatch(1, 0, 0), "WithLogBatch: 0 bytes"},
		{WithLogBatch(1, 1, -1), "WithLogBatch: an age of -1ns"},
		{WithQueueLimit(1<<20 - 1), "WithQueueLimit: 1048575 bytes"},
		{WithLineLimit(-1), "WithLineLimit: -1 bytes"},
		{WithLineLimit(40 << 20), "WithLineLimit: 41943040 bytes; a queue of 67108864 bytes"},
		{WithDeadLetterLimit(-1), "WithDeadLetterLimit: -1 bytes"},
		{WithBackfillRate(-1), "WithBackfillRate: -1 bytes a second"},
		{WithBackoff(0, time.Second), "WithBackoff: 0s is not a wait"},
		{WithBackoff(2*time.Second, time.Second), "WithBackoff: the longest wait 1s is shorter"},
		{WithSigner(nil), "WithSigner: nil"},
		{WithSigner(oddSigner{}), "WithSigner: "},
		{WithNodeKeyStore(nil), "WithNodeKeyStore: nil"},
		{WithNodeKeyStore((*keyStore)(nil)), "WithNodeKeyStore: nil"},
	} {
		_, err := New(WithNode(testNode), WithDir(t.TempDir()), c.option)
		if err == nil || !strings.HasPrefix(err.Error(), "extension."+c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want only extension.%s", err, c.want)
		}
	}
	if err := Check(WithNode(testNode), WithDir(t.TempDir()), nil, WithTransport(nil), WithEmit(nil)); err != nil {
		t.Errorf("an option that is left out: %v", err)
	}
}
