package extension

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/osqvisor/osqvisor/internal/logline"
)

// Queue names one of the three kinds of log.
type Queue string

// The queues. They are kept and delivered apart, so that none starves another.
const (
	// QueueResults holds differential and event results.
	QueueResults Queue = "results"
	// QueueSnapshots holds snapshot results.
	QueueSnapshots Queue = "snapshots"
	// QueueStatus holds osqueryd's own status lines.
	QueueStatus Queue = "status"
)

// Batch is what a LogSink gets: consecutive lines of one queue.
type Batch struct {
	// ID is the same at every try, after a restart too, so that a server can drop what it has
	// already. It is unique for ever, over all hosts, queues and directories.
	ID string
	// Queue is the kind of the lines.
	Queue Queue
	// Epoch names what First and Last count in: 32 random hexadecimal digits. A new epoch begins
	// when the instance's directory is new, or the queue's files were deleted, damaged or lost to
	// a power cut.
	Epoch string
	// First and Last are the sequence numbers of the first and last line. Within an epoch
	// they only rise, and no two lines share a number. A new queue counts from 1; one
	// that lost its epoch alone goes on counting.
	First, Last uint64
	// Lines are osqueryd's own bytes, one JSON document a line. No line holds a line feed or
	// a carriage return, and none is blank: line breaks at the end are cut off, those between
	// the values of a document are replaced by spaces, and those in what is no JSON by the two
	// characters \n or \r. A batch of an instance has at least one line.
	//
	// Lines of QueueStatus are in the form that osqueryd's own TLS logger sends, and servers read:
	// hostIdentifier, calendarTime, unixTime, severity, filename, line, message, version and
	// decorations; unixTime, severity and line are numbers, and strings until osquery 5.10.
	// osqueryd passes a logger plugin no decorations of status lines, so they are those of the
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

// asWritten is a line as WriteTo writes it.
func asWritten(line []byte) []byte {
	if bytes.IndexByte(line, '\n') < 0 && bytes.IndexByte(line, '\r') < 0 {
		return line
	}
	return []byte(logline.OneLine(string(line)))
}

// clone copies the batch with its bytes.
func (b Batch) clone() Batch {
	lines := make([][]byte, len(b.Lines))
	for i, line := range b.Lines {
		lines[i] = bytes.Clone(line)
	}
	b.Lines, b.Signature = lines, bytes.Clone(b.Signature)
	return b
}

// WriteTo writes the lines, each followed by a newline, as most servers like them. Lines of
// an instance hold no line break; those of others are written without, as with [Batch.Lines].
func (b Batch) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for _, line := range b.Lines {
		for _, part := range [][]byte{asWritten(line), {'\n'}} {
			n, err := w.Write(part)
			total += int64(n)
			if err != nil {
				return total, fmt.Errorf("write batch %s: %w", b.ID, err)
			}
		}
	}
	return total, nil
}

// Gzip returns what WriteTo writes, compressed with gzip.
func (b Batch) Gzip() ([]byte, error) {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := b.WriteTo(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("compress batch %s: %w", b.ID, err)
	}
	return buf.Bytes(), nil
}

// signedPrefix begins what is signed, so that a signature is good for nothing else.
const signedPrefix = "osqvisor batch v1\n"

// ErrSignature means that a batch is not what its signature was made for.
var ErrSignature = errors.New("the batch does not match its signature")

// SignedBytes returns what a batch's signature is over: a fixed prefix, the id, the
// queue, the numbers of the first and last line, and every line with its length,
// so that no two batches share it. Lengths and numbers are 8 bytes, big-endian.
func (b Batch) SignedBytes() []byte {
	out := make([]byte, 0, len(signedPrefix)+len(b.ID)+len(b.Queue)+8*(5+len(b.Lines))+b.Bytes)
	out = append(out, signedPrefix...)
	out = appendSized(out, []byte(b.ID))
	out = appendSized(out, []byte(b.Queue))
	out = binary.BigEndian.AppendUint64(out, b.First)
	out = binary.BigEndian.AppendUint64(out, b.Last)
	out = binary.BigEndian.AppendUint64(out, uint64(len(b.Lines)))
	for _, line := range b.Lines {
		out = appendSized(out, line)
	}
	return out
}

func appendSized(out, b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(out, uint64(len(b))), b...)
}

// Verify checks the signature of a batch against the public half of the key that
// Logs.Signer has: an ed25519.PublicKey, *ecdsa.PublicKey or
// *rsa.PublicKey. The error is ErrSignature when it does not match. Try is not
// signed. It is safe for concurrent use.
func Verify(public crypto.PublicKey, b Batch) error {
	message := b.SignedBytes()
	digest := sha256.Sum256(message)
	good := false
	switch key := public.(type) {
	case ed25519.PublicKey:
		good = len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, b.Signature)
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, digest[:], b.Signature)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], b.Signature) == nil
	default:
		return fmt.Errorf("verify batch %s: a key of type %T is not supported; use Ed25519, ECDSA or RSA", b.ID, public)
	}
	if !good {
		return fmt.Errorf("verify batch %s: %w", b.ID, ErrSignature)
	}
	return nil
}
