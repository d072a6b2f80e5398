package remoteapi

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/osqvisor/osqvisor/extension"
)

// StartCarve announces a carve and gives the server's session id.
func (c *Client) StartCarve(ctx context.Context, node extension.Node, req extension.CarveRequest) (string, error) {
	out, err := json.Marshal(struct {
		BlockCount int64  `json:"block_count"`
		BlockSize  int64  `json:"block_size"`
		CarveSize  int64  `json:"carve_size"`
		CarveID    string `json:"carve_id"`
		RequestID  string `json:"request_id"`
		NodeKey    string `json:"node_key"`
	}{req.BlockCount, req.BlockSize, req.CarveSize, req.CarveID, req.RequestID, node.Key})
	if err != nil {
		return "", fmt.Errorf("remoteapi: %s: encode: %w", callCarveBegin, err)
	}
	got, err := c.post(ctx, request{call: callCarveBegin, node: node, body: newBody(out)})
	if err != nil {
		return "", err
	}
	session := got.fields.text("session_id")
	if session == "" {
		return "", wrongType(callCarveBegin, "no session_id")
	}
	return session, nil
}

// CarveBlock delivers one block. The API authenticates blocks by session and
// request id; the node key goes along in the Authorization header only.
func (c *Client) CarveBlock(ctx context.Context, node extension.Node, block extension.CarveBlock) error {
	data := block.Data
	if data == nil {
		data = []byte{} // an empty string, not null
	}
	out, err := json.Marshal(struct {
		BlockID   int64  `json:"block_id"`
		Session   string `json:"session_id"`
		RequestID string `json:"request_id"`
		Data      []byte `json:"data"`
	}{block.BlockID, block.Session, block.RequestID, data})
	if err != nil {
		return fmt.Errorf("remoteapi: %s: encode: %w", callCarveBlock, err)
	}
	_, err = c.post(ctx, request{call: callCarveBlock, node: node, body: newBody(out)})
	return err
}
