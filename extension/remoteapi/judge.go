package remoteapi

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/osqvisor/osqvisor/extension"
)

// judge decides what an answer means.
func (c *Client) judge(resp *http.Response, data []byte, req request) (answer, error) {
	f, err := parseFields(req.call, data)
	if !success(resp.StatusCode) {
		return answer{}, c.failure(resp, f, req)
	}
	if err != nil {
		if c.emptyAck[req.call] && len(bytes.TrimSpace(data)) == 0 {
			return answer{}, nil
		}
		return answer{}, err
	}
	if req.call != callEnroll {
		if err := refusal(f, req); err != nil {
			return answer{}, err
		}
	}
	return answer{fields: f, raw: data}, nil
}

// refusal reads what a server says no with, under a status that says yes.
func refusal(f fields, req request) error {
	invalid, err := f.nodeInvalid(req.call)
	if err != nil {
		return err
	}
	_, failed := f["error"]
	// SGT, for one, says it so.
	failed = failed || req.call.acknowledges() && f.text("status") == "error"
	// And osctrl so, to a carve that it does not know.
	failed = failed || req.call.carves() && string(f["success"]) == "false"
	if !invalid && !failed {
		return nil
	}
	no := &AnswerError{Call: string(req.call), Reason: ReasonRefused,
		Detail: mentions(f.text("error", "message"))}
	if invalid {
		return fmt.Errorf("%w: %w", extension.ErrNodeInvalid, no)
	}
	return no
}

// failure is for a status other than 2xx. f is nil when the body is not an object.
func (c *Client) failure(resp *http.Response, f fields, req request) error {
	no := &StatusError{
		Call: string(req.call), Status: resp.StatusCode,
		ContentType: knownType(resp.Header.Get("Content-Type")),
		Message:     mentions(f.text("error", "message")),
	}
	if no.Status >= 300 && no.Status < 400 {
		no.Message = "redirects are followed only by 307 and 308 and to the same host; correct the server's URL"
	}
	// An enrolment has no key yet that could be invalid.
	if invalid, err := f.nodeInvalid(req.call); err == nil && invalid && req.call != callEnroll {
		return fmt.Errorf("%w: %w", extension.ErrNodeInvalid, no)
	}
	if wait := retryAfter(resp.Header); wait > 0 {
		return extension.RetryAfter(min(wait, c.maxRetryAfter), no)
	}
	// Half of it may pass; of a single line there is no half.
	if no.Status == http.StatusRequestEntityTooLarge && req.lines > 1 {
		return fmt.Errorf("%w: %w", extension.ErrTooLarge, no)
	}
	if c.permanent[no.Status] && req.call.acknowledges() {
		return fmt.Errorf("%w: %w", extension.ErrPermanent, no)
	}
	return no
}

// retryAfter reads both forms of the header; 0 means none that can be used. A date is read
// by the clock that wrote it, which the answer's own date shows.
func retryAfter(h http.Header) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(at.Sub(now), 0)
}

// sameHostOnly lets a redirect repeat a POST, with its secrets, only to where it
// was sent in the first place. Refused ones come back as their 3xx answer.
func sameHostOnly(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if req.Method != http.MethodPost || req.URL.Scheme != first.Scheme || req.URL.Host != first.Host || len(via) > 3 {
		return http.ErrUseLastResponse
	}
	return nil
}
