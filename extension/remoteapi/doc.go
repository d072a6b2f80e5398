// Package remoteapi is an [extension.Transport] over osquery's remote API, the HTTPS
// protocol that Fleet, osctrl, SGT and others offer to osqueryd's own "tls" plugins. One
// [Client] serves any number of instances; what differs between them, such as the node key,
// arrives with each call in extension.Node.
//
//	client, err := remoteapi.New("https://fleet.example.com",
//		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{File: "/etc/agent/enroll-secret"}))
//
// # Enrolment
//
// A server identifies a node by the name that it enrols with, and takes two nodes of one
// name for the same: each enrolment invalidates the other's key. It also attributes log
// lines by the name in them. A Client therefore enrols with the name that osqueryd logs
// under, extension.Node.HostIdentifier: by default osqueryd's instance_id, which differs
// between databases, else what instance.WithHostIdentifier sets, which must be unique for
// each host and instance. Enrolling fails until osqueryd has reported its instance_id.
//
// # Success and errors
//
// osqueryd ignores the HTTP status. A Client does not: an answer is an error unless it is
// 2xx, a complete JSON object within the [Limits], and has neither "node_invalid": true nor
// an "error" key. Logs are therefore acknowledged only by a server that understood them.
//
//   - "node_invalid": true, with any status, is [extension.ErrNodeInvalid].
//   - Other statuses are a [*StatusError], wrapped in [extension.RetryAfterError] if there
//     is a Retry-After header. A date in it is relative to the answer's own Date.
//   - 413 in answer to several log lines or results, without Retry-After, is
//     [extension.ErrTooLarge]: half of them may pass.
//   - Otherwise, 413 and 422 in answer to logs or results, without Retry-After, are
//     [extension.ErrPermanent]; see Quirks.PermanentStatuses.
//   - A 2xx answer that cannot be used is an [*AnswerError].
//
// A Client does not retry; the extension does, with backoff. Only when a kept-alive
// connection breaks before an answer does net/http repeat a call: config and distributed
// reads, and log calls, whose Idempotency-Key is the same, unless Quirks.NoBatchHeaders.
//
// Only redirects with 307 and 308 to the same scheme, host and port are followed, at most
// three: a request with a node key is not repeated elsewhere.
//
// # Requests
//
// A log line that is a JSON document is sent byte for byte, as an element of "data"; any
// other line is sent as a JSON string. Bytes that are not UTF-8 become U+FFFD.
//
// The API has no field for a batch's identity. It is sent in the headers [HeaderBatchID],
// [HeaderBatch] and [HeaderSignature], which servers that do not know them ignore.
//
// # Secrets in errors
//
// An error quotes nothing of what a server or proxy sent, since that may repeat a node key
// or an enroll secret. Of an answer, errors contain the status, one of four media types, the
// bounded Retry-After, and which of a fixed list of subjects its message mentions.
package remoteapi
