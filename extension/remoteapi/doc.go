// Package remoteapi is an [extension.Transport] over osquery's remote API, the
// HTTPS protocol that Fleet, osctrl, SGT and others speak to osqueryd's own "tls"
// plugins. One [Client] serves any number of instances: what differs between
// them, the node key first of all, arrives with each call in extension.Node.
//
//	client, err := remoteapi.New("https://fleet.example.com",
//		remoteapi.WithEnrollSecretFile("/etc/agent/enroll-secret"))
//
// # Who enrols
//
// Servers know a node by the name that it enrols with, and take two of one name for
// one node: each enrolment then makes the other's key invalid, and both go on
// enrolling. They also attribute a log line to the node of the name that stands in it. So
// what enrols is what osqueryd logs under, extension.Node.HostIdentifier: by default the
// instance_id of osqueryd's osquery_info, which is another one in each database, else what
// instance.WithHostIdentifier sets, which has to be another one on each host and for each
// instance. Until osqueryd could be asked for its instance_id, enrolling fails.
//
// # What counts as success
//
// osqueryd never looks at the HTTP status. This client does: whatever is not 2xx,
// not a JSON object, empty, cut short, too large, too slow, marked "node_invalid"
// or carries an "error" key is an error, so that logs are only acknowledged by a
// server that understood them.
//
//   - "node_invalid": true, under any status, is [extension.ErrNodeInvalid].
//   - Any other status is a [*StatusError]; with a Retry-After header it is
//     wrapped in [extension.RetryAfterError], bounded by [WithMaxRetryAfter].
//   - 413, answered to a batch of several log lines and without Retry-After, is
//     [extension.ErrTooLarge]: the server took none of it, and half may pass.
//   - 413 and 422, answered to logs, results or carve blocks and without
//     Retry-After, are [extension.ErrPermanent] otherwise: the same bytes will be
//     refused again, and would stand in the way of all that follow. 400 is not,
//     because gateways answer it for reasons of their own. [WithPermanentStatus]
//     changes the list.
//   - An answer that cannot be used is an [*AnswerError].
//
// Nothing is repeated here, the extension does that with backoff; except that
// net/http sends a call again when a kept-alive connection broke under it before there
// was an answer: config and distributed reads, which change nothing, and log calls, which
// bear the same Idempotency-Key again, unless [WithoutBatchHeaders] is given.
//
// A Retry-After that is a date is read by the answer's own Date header, since the
// server's clock wrote both.
//
// Redirects are followed by 307 and 308 only, to the same scheme, host and port,
// three at most: a POST with a node key is not repeated elsewhere.
//
// # What is sent
//
// A log line that is a JSON document goes out byte for byte, as an element of
// "data". A line that is not is sent as a JSON string. Bytes that are not UTF-8
// cannot stand in JSON and become U+FFFD.
//
// The API has no field for a batch's identity, so it travels in headers, which
// servers that do not know them ignore: Idempotency-Key is the batch's ID, which is
// unique for ever and over all nodes; Osqvisor-Batch its queue, its sequence numbers
// and the epoch in which they count, Osqvisor-Signature the detached
// signature when there is one. [WithoutBatchHeaders] leaves them out.
//
// # What errors hold
//
// An error quotes nothing of what a server, or a proxy on the way, sent: it could repeat a
// node key or an enroll secret in a form that no search would find. What an error takes
// from an answer is its status, one of four media types, the bounded wait of a
// Retry-After, and which of a short list of subjects its message mentions. The rest are
// words of this package, the server's address and the errors of this system. That holds
// for what this Client returns; a config and a query are data that the server chose, and
// what refuses one names its parts.
package remoteapi
