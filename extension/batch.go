package extension

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/osqvisor/osqvisor/internal/logline"
)

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
// the extension hold no line break; those of others are written without, as [Batch.Lines] says.
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

// Gzip gives what WriteTo writes, compressed with gzip.
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
