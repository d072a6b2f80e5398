package thriftconn

import (
	"context"
	"fmt"
	"net"

	"github.com/Microsoft/go-winio"
)

// pipeAccess lets in the system, administrators and the owner of the pipe.
const pipeAccess = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)"

// pipeBuffer is the size in bytes of a pipe's buffer in each direction.
const pipeBuffer = 64 << 10

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, path)
}

// lookForSocket leaves it to the dialling to find a pipe: a look opens one of its instances.
func lookForSocket(string) error { return nil }

// Listen makes a named pipe at path (such as \\.\pipe\name.1234) that the
// system, administrators and the user of this process may connect to, for
// [Server.Serve]. It fails when a pipe of that name exists.
func Listen(path string) (net.Listener, error) {
	l, err := winio.ListenPipe(path, &winio.PipeConfig{
		SecurityDescriptor: pipeAccess,
		InputBufferSize:    pipeBuffer,
		OutputBufferSize:   pipeBuffer,
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the extension pipe: %w", err)
	}
	return l, nil
}
