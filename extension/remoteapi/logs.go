package remoteapi

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

// The headers that carry what the API's body has no field for.
const (
	// HeaderBatchID holds the batch's ID; bytes other than visible ASCII, and the
	// percent sign, are percent-encoded.
	HeaderBatchID = "Idempotency-Key"
	// HeaderBatch holds "queue=results; first=1; last=20; epoch=0123456789abcdef0123456789abcdef".
	HeaderBatch = "Osqvisor-Batch"
	// HeaderSignature holds the batch's signature in base64.
	HeaderSignature = "Osqvisor-Signature"
)

// PublishLogs delivers a batch: results and snapshots as log_type "result", status
// lines as "status". A batch without lines is a success without a call.
func (c *Client) PublishLogs(ctx context.Context, node extension.Node, batch extension.Batch) error {
	if len(batch.Lines) == 0 {
		return nil
	}
	req := request{
		call: callLog, node: node, body: logBody(node.Key, batch), header: http.Header{}, lines: len(batch.Lines),
	}
	if c.batchHeaders {
		setBatchHeader(req.header, batch)
	}
	if c.gzip {
		small, err := req.body.compress()
		if err != nil {
			return fmt.Errorf("remoteapi: %s: compress: %w", callLog, err)
		}
		req.body = small
		req.header.Set("Content-Encoding", "gzip")
	}
	_, err := c.post(ctx, req)
	return err
}

func setBatchHeader(h http.Header, b extension.Batch) {
	h.Set(HeaderBatchID, visible(b.ID))
	about := fmt.Sprintf("queue=%s; first=%d; last=%d", url.PathEscape(string(b.Queue)), b.First, b.Last)
	if b.Epoch != "" {
		about += "; epoch=" + url.PathEscape(b.Epoch)
	}
	h.Set(HeaderBatch, about)
	if len(b.Signature) > 0 {
		h.Set(HeaderSignature, base64.StdEncoding.EncodeToString(b.Signature))
	}
}

// visible percent-encodes what must not stand in a header.
func visible(s string) string {
	var out strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}
