package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/osqvisor/osqvisor/extension"
)

// carving is what the carve case works with.
type carving struct {
	*suite
	carver extension.Carver
	server CarveHarness
}

// carves: a carve's request and blocks arrive exactly, those of two instances
// apart, over failures that are told apart like those of other calls.
func carves(s *suite) {
	carver, ok := s.h.Transport().(extension.Carver)
	server, sees := s.h.(CarveHarness)
	if !ok || !sees {
		s.Fatalf("Limits.Also names %q: the transport is an extension.Carver: %t, the harness a CarveHarness: %t", Carves, ok, sees)
	}
	c := carving{s, carver, server}
	one, two := s.node("carves-1"), s.node("carves-2")
	c.failures(one)
	sessions := map[string]bool{}
	for _, n := range []extension.Node{one, two, one} {
		sessions[c.carve(n, len(sessions))] = true
	}
	if len(sessions) != 3 {
		s.Errorf("3 carves had %d sessions", len(sessions))
	}
}

func carveRequest(n int) extension.CarveRequest {
	id := fmt.Sprintf("carve-%d", n)
	return extension.CarveRequest{BlockCount: 3, BlockSize: 4096, CarveSize: 2*4096 + 1, CarveID: id, RequestID: "request-of-" + id}
}

// carveBlocks gives the blocks in the order in which they are sent: a repeated one
// stands for a retry.
func carveBlocks(session string, req extension.CarveRequest) []extension.CarveBlock {
	var out []extension.CarveBlock
	for _, id := range []int64{0, 1, 1, 2} {
		data := bytes.Repeat([]byte{byte(id), 0, 0xff, '\n'}, 1024)
		if id == 2 {
			data = data[:1]
		}
		out = append(out, extension.CarveBlock{BlockID: id, Session: session, RequestID: req.RequestID, Data: data})
	}
	return out
}

// carve makes the nth carve, looks for it at the server and gives its session.
func (c carving) carve(node extension.Node, n int) (session string) {
	c.Helper()
	before, req := len(c.server.Carved(node.Instance)), carveRequest(n)
	c.must("StartCarve", func(ctx context.Context) (err error) {
		session, err = c.carver.StartCarve(ctx, node, req)
		return err
	})
	want := map[int64][]byte{}
	for _, b := range carveBlocks(session, req) {
		want[b.BlockID] = bytes.Clone(b.Data)
		c.must("CarveBlock", func(ctx context.Context) error { return c.carver.CarveBlock(ctx, node, b) })
		clear(b.Data) // it is not the transport's any more
	}
	all := c.server.Carved(node.Instance)
	if len(all) != before+1 {
		c.Fatalf("%s: the server has %d carves, want %d", node.Instance, len(all), before+1)
	}
	got := all[before]
	if session == "" || got.Session != session || got.Request != req {
		c.Errorf("%s: carve %+v arrived as %+v, session %q as %q", node.Instance, req, got.Request, session, got.Session)
	}
	if len(got.Blocks) != len(want) {
		c.Errorf("%s: %d blocks arrived, want %d", node.Instance, len(got.Blocks), len(want))
	}
	for id, data := range want {
		if !bytes.Equal(got.Blocks[id], data) {
			c.Errorf("%s: block %d arrived as %s, want %s", node.Instance, id, short(got.Blocks[id]), short(data))
		}
	}
	return session
}

// failures: a call that fails says so, leaves no carve behind and works again.
func (c carving) failures(node extension.Node) {
	c.Helper()
	start := method{"StartCarve", false, func(ctx context.Context, n extension.Node) error {
		_, err := c.carver.StartCarve(ctx, n, carveRequest(100))
		return err
	}}
	_ = c.failed(start, node, Failure{Kind: Temporary})
	if c.can(NodeInvalids) {
		if err := c.failed(start, node, Failure{Kind: NodeInvalid}); !errors.Is(err, extension.ErrNodeInvalid) {
			c.Errorf("StartCarve: %v is no ErrNodeInvalid", err)
		}
	}
	if got := c.server.Carved(node.Instance); len(got) != 0 {
		c.Errorf("the server has %d carves of calls that it failed", len(got))
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.within("StartCarve", callTimeout, func(context.Context) error { return start.call(over, node) }); err == nil {
		c.Errorf("StartCarve: nil although its context was over before the call")
	}
}
