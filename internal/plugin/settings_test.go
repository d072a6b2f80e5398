package plugin

import (
	"crypto"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// oddSigner has a key that no signature can be checked with.
type oddSigner struct{}

func (oddSigner) Public() crypto.PublicKey                                  { return "key" }
func (oddSigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil }

// TestMisuseIsRefusedByNameAndReason tries each misuse alone: it is the one thing
// that New complains of.
func TestMisuseIsRefusedByNameAndReason(t *testing.T) {
	for _, c := range []struct {
		option option
		want   string
	}{
		{withNode(nil), "Node: missing"},
		{withDir(""), "WithDirectory: missing"},
		{withDir("data/x"), `WithDirectory: "data/x" is relative`},
		{func(s *Settings) { s.Name = "a b" }, `Name: "a b" is not a plugin name`},
		{func(s *Settings) { s.Name = strings.Repeat("x", 65) }, "Name: "},
		{withTables(nil), "WithTables: "},
		{withTables(hostTable("a-b", rows)), `WithTables: `},
		{withTables(hostTable("x", rows), hostTable("x", rows)), `WithTables: `},
		{withTables(&badTable{}), "WithTables: "},
		{withConfigTimeout(-1), "WithConfig: Timeout: -1ns is negative"},
		{withTransportTimeout(-1), "WithLogs: Delivery.Timeout: -1ns is negative"},
		{withAnswerTimeout(-1), "WithDistributed: AnswerTimeout: -1ns is negative"},
		{withTableTimeout(-1), "TableTimeout: -1ns is negative"},
		{withConfigLimit(1), "WithConfig: Limit: 1 bytes"},
		{withConfigLimit(4<<20 + 1), "WithConfig: Limit: 4194305 bytes"},
		{withConfigProbation(25 * time.Hour), "WithConfig: Probation: 25h0m0s is more"},
		{withLogBatch(-1, 1, 0), "WithLogs: BatchLines: -1;"},
		{withLogBatch(1, -1, 0), "WithLogs: BatchBytes: -1;"},
		{withQueueLimit(1<<20 - 1), "WithLogs: QueueBytes: 1048575;"},
		{withLineLimit(-1), "WithLogs: LineLimit: -1 bytes"},
		{withLineLimit(40 << 20), "WithLogs: LineLimit: 41943040 bytes; a queue of 67108864 bytes"},
		{withFullQueue(7), "WithLogs: WhenFull: 7 is neither"},
		{withBackfillRate(-1), "WithLogs: BackfillRate: -1 bytes a second"},
		{withBackoff(-1, time.Second), "WithLogs: Delivery.FirstWait: -1ns is negative"},
		{withBackoff(2*time.Second, time.Second), "WithLogs: Delivery.LongestWait: 1s is shorter"},
		{withSigner((*flakySigner)(nil)), "WithLogs: Signer: nil"},
		{withSigner(oddSigner{}), "WithLogs: Signer: "},
		{withNodeKeyStore((*keyStore)(nil)), "WithNodeKeyStore: nil"},
		{func(s *Settings) { s.Enrolment.Interval = 1 }, "WithEnrolment: Interval: 1ns"},
		{func(s *Settings) { s.Enrolment.PerMinute = -1 }, "WithEnrolment: PerMinute: -1"},
	} {
		_, err := open(withDir(t.TempDir()), c.option)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want only %s", err, c.want)
		}
	}
	if errs := (Settings{Node: testNode, Dir: t.TempDir()}).Check(); len(errs) > 0 {
		t.Errorf("what is left out: %v", errs)
	}
}

// TestSyncChoices counts the flushes of each choice over lines that come one by one.
func TestSyncChoices(t *testing.T) {
	const lines, interval = 20, time.Minute
	for name, c := range map[string]struct {
		opts                []option // newRig says SyncNever
		atOnce, least, most uint64
	}{
		"each line":  {[]option{withSync(extension.SyncEachLine)}, lines, lines, lines + 1},
		"interval":   {[]option{withSync(interval)}, 0, 1, 2},
		"never":      {nil, 0, 0, 0},
		"by default": {[]option{withSync(0)}, 0, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, t.TempDir(), append(c.opts, logsTo(&sink{fail: func(extension.Batch) error { return errDown }}))...)
				r.logLines(lines)
				equal(t, "flushes before osqueryd was answered", r.shippers[0].Store.Stats().Syncs, c.atOnce)
				pass(2 * interval)
				synctest.Wait()
				if got := r.shippers[0].Store.Stats().Syncs; got < c.least || got > c.most {
					t.Errorf("%d flushes of %d lines, want %d to %d", got, lines, c.least, c.most)
				}
			})
		})
	}
}
