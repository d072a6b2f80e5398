// Package thriftconn speaks osquery's extension protocol: Thrift
// TBinaryProtocol, unframed, over a unix socket or a Windows named pipe.
//
// It holds the four connections that a supervisor of osqueryd needs:
//
//   - [Conn] is one buffered connection to osqueryd's manager socket, for one
//     call at a time. Every call ends with its context.
//   - [QueryQueue] runs queries one at a time, first come first served, because
//     osqueryd collapses when queries run side by side.
//   - [Sentinel] is an idle connection whose end shows, without polling, that
//     the process behind the socket went away.
//   - [Server] answers osqueryd's calls to this extension.
//
// The encoder and decoder are written by hand. They never allocate what a
// header merely claims: memory grows only with bytes that have arrived.
package thriftconn
