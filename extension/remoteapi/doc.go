// Package remoteapi is an [extension.Transport] over osquery's remote API, the HTTPS protocol
// that Fleet, osctrl, SGT and others offer to osqueryd's own "tls" plugins. One [Client]
// serves any number of instances.
//
//	client, err := remoteapi.New("https://fleet.example.com",
//		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{File: "/etc/agent/enroll-secret"}))
//
// # Enrolment
//
// A server identifies a node, and attributes its log lines, by the name that it enrols with.
// A Client enrols with the name that osqueryd logs under, extension.Node.HostIdentifier: by
// default osqueryd's instance_id, else what instance.WithHostIdentifier sets, which must be
// unique for each host and instance. Enrolling fails until osqueryd has reported its
// instance_id.
//
// # Success and errors
//
// Unlike in osqueryd, an answer is an error unless it is 2xx, a complete JSON object within
// the [Limits], and has neither "node_invalid": true nor an "error" key.
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
// The extension retries, not the Client. Only when a kept-alive connection breaks before an
// answer does net/http repeat a call: config and distributed reads, and log calls, with the
// same Idempotency-Key, unless Quirks.NoBatchHeaders is set. Only redirects with 307 and 308
// to the same scheme, host and port are followed, at most three.
//
// An error quotes nothing of what a server or proxy sent, since that may repeat a node key
// or an enroll secret: only a subject from a fixed list that its message mentions.
//
// # Requests
//
// A log line that is a JSON document is sent byte for byte, any other line as a JSON string.
// Bytes that are not UTF-8 become U+FFFD. A batch's identity is sent in headers, which
// servers that do not know them ignore.
package remoteapi
