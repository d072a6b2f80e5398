package remoteapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"

	"github.com/osqvisor/osqvisor/extension"
)

// judge decides what an answer means.
func (c *Client) judge(resp *http.Response, data []byte, req request) (answer, error) {
	f, err := parseFields(req.call, data)
	if !success(resp.StatusCode) {
		return answer{}, c.failure(resp, f, req)
	}
	if err != nil {
		if c.quirks.EmptyAck && req.call.acknowledges() && len(bytes.TrimSpace(data)) == 0 {
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

// refusal returns the error that a 2xx answer contains, or nil.
func refusal(f fields, req request) error {
	invalid, err := f.nodeInvalid(req.call)
	if err != nil {
		return err
	}
	_, failed := f["error"]
	// As SGT does.
	failed = failed || req.call.acknowledges() && f.text("status") == "error"
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
	var later *extension.RetryAfterError
	if errors.As(extension.StatusError(no.Status, resp.Header, ""), &later) {
		return extension.RetryAfter(min(later.After, c.limits.RetryAfter), no)
	}
	// Half of it may pass; of a single line there is no half.
	if no.Status == http.StatusRequestEntityTooLarge && req.lines > 1 {
		return fmt.Errorf("%w: %w", extension.ErrTooLarge, no)
	}
	if slices.Contains(c.quirks.PermanentStatuses, no.Status) && req.call.acknowledges() {
		return fmt.Errorf("%w: %w", extension.ErrPermanent, no)
	}
	return no
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

// fields is an answer's outermost object. A map, because struct fields would
// also match names that differ in case.
type fields map[string]json.RawMessage

// parseFields reads an answer that must be one JSON object.
func parseFields(c call, data []byte) (fields, error) {
	data = bytes.Trim(data, " \t\r\n") // JSON's white space, which is less than Unicode's
	if len(data) == 0 {
		return nil, &AnswerError{Call: string(c), Reason: ReasonEmpty}
	}
	if !json.Valid(data) {
		return nil, &AnswerError{Call: string(c), Reason: ReasonNotJSON, Detail: kindOf(data)}
	}
	if data[0] != '{' {
		return nil, wrongType(c, "the answer is not an object")
	}
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, wrongType(c, "the answer is not an object")
	}
	return f, nil
}

func kindOf(data []byte) string {
	if data[0] == '<' {
		return "it looks like HTML or XML; a proxy may have answered in the server's place"
	}
	return ""
}

func wrongType(c call, detail string) error {
	return &AnswerError{Call: string(c), Reason: ReasonWrongType, Detail: detail}
}

// nodeInvalid reads the one field that ends a node key's life.
func (f fields) nodeInvalid(c call) (bool, error) {
	raw, found := f["node_invalid"]
	if !found || string(raw) == `"false"` { // SGT hands queries out with this string
		return false, nil
	}
	var invalid bool
	if err := json.Unmarshal(raw, &invalid); err != nil {
		return false, wrongType(c, "node_invalid is not true or false")
	}
	return invalid, nil
}

// text returns the first of the named fields that is a string, or "".
func (f fields) text(names ...string) string {
	for _, name := range names {
		var s string
		if json.Unmarshal(f[name], &s) == nil && s != "" {
			return s
		}
	}
	return ""
}

// parseQueries reads the answer to a distributed read.
func parseQueries(f fields) (extension.QuerySet, error) {
	var set extension.QuerySet
	var err error
	if set.Queries, err = f.stringMap(callRead, "queries"); err != nil {
		return extension.QuerySet{}, err
	}
	if set.Discovery, err = f.stringMap(callRead, "discovery"); err != nil {
		return extension.QuerySet{}, err
	}
	if set.AccelerateSeconds, err = f.accelerate(); err != nil {
		return extension.QuerySet{}, err
	}
	return set, nil
}

func (f fields) stringMap(c call, name string) (map[string]string, error) {
	raw, found := f[name]
	if !found {
		return nil, nil
	}
	var values map[string]*string
	if err := json.Unmarshal(raw, &values); err != nil {
		return nil, wrongType(c, name+" is not an object of strings")
	}
	out := make(map[string]string, len(values))
	for key, value := range values {
		if value == nil {
			return nil, wrongType(c, name+" is not an object of strings")
		}
		out[key] = *value
	}
	return out, nil
}

// accelerate takes what osqueryd takes, an int; a negative one changes nothing.
func (f fields) accelerate() (int, error) {
	raw, found := f["accelerate"]
	if !found {
		return 0, nil
	}
	var seconds int64
	if err := json.Unmarshal(raw, &seconds); err != nil || seconds > math.MaxInt32 {
		return 0, wrongType(callRead, "accelerate is not an int")
	}
	return int(max(seconds, 0)), nil
}

// parseNodeKey reads the answer to an enrolment. A key beside node_invalid is refused,
// although osqueryd takes it: every call with it would be answered by node_invalid again.
func parseNodeKey(f fields) (string, error) {
	key, message := f.text("node_key", "id"), f.text("error", "message")
	invalid, err := f.nodeInvalid(callEnroll)
	switch {
	case err != nil:
		return "", err
	case invalid, key == "" && message != "":
		return "", &AnswerError{Call: string(callEnroll), Reason: ReasonRefused, Detail: mentions(message)}
	case key == "":
		return "", wrongType(callEnroll, "no node_key")
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] == 0x7f {
			return "", wrongType(callEnroll, "the node key has control characters")
		}
	}
	return key, nil
}
