package remoteapi

import (
	"bytes"
	"encoding/json"
	"math"

	"github.com/osqvisor/osqvisor/extension"
)

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

// text gives the first of the named fields that is a string, or "".
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
