package remoteapi

import (
	"cmp"
	"context"
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
	req.Node.Key = "" // an old key is no credential for a new one
	host, err := identify(req)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: %w", callEnroll, err)
	}
	b, err := enrollBody(secret, host, req)
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: encode: %w", callEnroll, err)
	}
	got, err := c.post(ctx, request{call: callEnroll, node: req.Node, body: b})
	if err != nil {
		return "", err
	}
	return parseNodeKey(got.fields)
}

func (c *Client) enrollSecret(ctx context.Context, node extension.Node) (string, error) {
	if c.secret == nil {
		return "", nil
	}
	return c.secret(ctx, node)
}

// identify says what to enrol as: what osqueryd logs under. It is never a guess: nodes of
// one name take each other's node keys away, and enrol again and again.
func identify(req extension.EnrollRequest) (string, error) {
	if name := cmp.Or(req.Node.HostIdentifier, req.HostDetails["osquery_info"]["instance_id"]); name != "" {
		return name, nil
	}
	return "", fmt.Errorf("no host identifier for instance %q: osqueryd could not be asked for its instance_id; "+
		"set instance.WithHostIdentifier, or try again when osqueryd runs", req.Node.Instance)
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
