package remoteapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

const maxSecretFile = 64 << 10 // bytes

// Enroll asks for a node key. A refusal is an [*AnswerError] or [*StatusError],
// never extension.ErrNodeInvalid: there is no key yet that could be invalid.
func (c *Client) Enroll(ctx context.Context, req extension.EnrollRequest) (string, error) {
	secret, err := c.enrollSecret(ctx, req.Node)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: %w", callEnroll, err)
	}
	node := req.Node
	node.Key = "" // an old key is no credential for a new one
	hidden := secrets{secret, req.Node.Key}
	b, err := enrollBody(secret, c.hostIdentifier(node), req)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: encode: %w", callEnroll, err)
	}
	got, err := c.post(ctx, request{call: callEnroll, node: node, body: b, secrets: hidden})
	if err != nil {
		return "", err
	}
	key, err := parseNodeKey(got.fields)
	var no *AnswerError
	if errors.As(err, &no) {
		no.Detail = append(hidden, c.secrets...).message(no.Detail)
	}
	return key, err
}

func (c *Client) enrollSecret(ctx context.Context, node extension.Node) (string, error) {
	if c.secret == nil {
		return "", nil
	}
	return c.secret(ctx, node)
}

func defaultHostIdentifier(node extension.Node) string {
	if node.HostIdentifier != "" {
		return node.HostIdentifier
	}
	return node.Instance
}

// secretFile reads the file anew each time: secrets are rotated.
func secretFile(path string) secretFunc {
	return func(context.Context, extension.Node) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", fmt.Errorf("enroll secret: %w", err)
		}
		defer f.Close()
		data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
		if err != nil {
			return "", fmt.Errorf("enroll secret: %w", err)
		}
		secret := strings.TrimSpace(string(data))
		if secret == "" || len(data) > maxSecretFile {
			return "", fmt.Errorf("enroll secret: %s is empty or larger than %d bytes", path, maxSecretFile)
		}
		return secret, nil
	}
}
