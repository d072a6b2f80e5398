package plugin

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
)

// plainSigner hides what a key is beside a signer.
type plainSigner struct{ crypto.Signer }

func TestSignaturesVerify(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rs, _ := rsa.GenerateKey(rand.Reader, 2048)
	for _, key := range []crypto.Signer{ed, ec, rs, plainSigner{ec}} {
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withSigner(key))
		r.logLines(3)
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := s.taken[0]
		if err := extension.Verify(key.Public(), b); err != nil {
			t.Errorf("%T: %v", key, err)
		}
		changes := []func(*extension.Batch){
			func(b *extension.Batch) { b.ID += "x" }, func(b *extension.Batch) { b.Queue = extension.QueueStatus },
			func(b *extension.Batch) { b.First++ },
			func(b *extension.Batch) { b.Lines = b.Lines[1:] },
			func(b *extension.Batch) { b.Lines = [][]byte{b.Lines[0], []byte(`{"n":9}`), b.Lines[2]} },
			func(b *extension.Batch) { b.Signature = nil }, func(b *extension.Batch) { b.Last++ },
		}
		for i, change := range changes {
			c := b
			change(&c)
			if err := extension.Verify(key.Public(), c); !errors.Is(err, extension.ErrSignature) {
				t.Errorf("%T: change %d: %v", key, i, err)
			}
		}
	}
	if err := extension.Verify("key", extension.Batch{}); err == nil || errors.Is(err, extension.ErrSignature) {
		t.Errorf("a key of no kind: %v", err)
	}
}

func TestFailingSignerHoldsBatchesBack(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	k := &flakySigner{Signer: ed, fail: true}
	s := &sink{}
	r := newRig(t, t.TempDir(), logsTo(s), withSigner(k))
	want := r.logLines(3)
	if err := r.Flush(t.Context()); err == nil {
		t.Error("no error")
	}
	equal(t, "sent", len(s.tries), 0)
	k.fail = false
	if err := r.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameLines(t, s.lines(), want)
}

type flakySigner struct {
	crypto.Signer
	fail bool
}

func (f *flakySigner) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if f.fail {
		panic("the token is gone")
	}
	return f.Signer.Sign(rand, digest, opts)
}

// slowSigner does not return before it is told to.
type slowSigner struct {
	crypto.Signer
	hang chan struct{}
}

func (s slowSigner) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	<-s.hang
	return s.Signer.Sign(r, digest, opts)
}

// A signer that hangs holds up deliveries and nothing else: neither the end of a run nor the next one.
func TestHangingSignerIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		hang := make(chan struct{})
		s := &sink{}
		r := newRig(t, t.TempDir(), logsTo(s), withDeferredQueues(), withSigner(slowSigner{key, hang}), withLogBatch(1, 1<<20, 0))
		if err := r.OpenQueues(); err != nil {
			t.Fatal(err)
		}
		stop := r.start()
		r.logLines(1)
		pass(time.Second)
		if err := stop(); !errors.Is(err, guard.ErrNotReturned) {
			t.Errorf("a goroutine is left, and Run says %v", err)
		}
		if err := r.CloseQueues(); err != nil {
			t.Fatal(err)
		}
		if err := r.OpenQueues(); err != nil {
			t.Fatal(err)
		}
		close(hang)
		synctest.Wait()
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		equal(t, "lines", len(s.lines()), 1)
	})
}
