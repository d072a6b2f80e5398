package delivery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
)

// DenylistedMessage is what osqueryd answers for a query that it refuses to run.
const DenylistedMessage = "distributed query is denylisted"

// rawResults is what osqueryd writes, piece by piece, so that a malformed piece
// costs that piece and not the batch.
type rawResults struct {
	Queries  map[string]json.RawMessage `json:"queries"`
	Statuses map[string]json.RawMessage `json:"statuses"`
	Messages map[string]json.RawMessage `json:"messages"`
	Stats    map[string]json.RawMessage `json:"stats"`
}

// ParseResults reads what osqueryd writes, sorted by id. It fails when the
// document as a whole is none.
func ParseResults(data []byte) ([]extension.Result, error) {
	raw, err := parseRawResults(data)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, part := range []map[string]json.RawMessage{raw.Queries, raw.Statuses, raw.Messages} {
		for id := range part {
			ids[id] = true
		}
	}
	results := make([]extension.Result, 0, len(ids))
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		results = append(results, raw.result(id))
	}
	return results, nil
}

func parseRawResults(data []byte) (rawResults, error) {
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return rawResults{}, fmt.Errorf("read distributed results: %w", err)
	}
	var raw rawResults
	for key, into := range map[string]*map[string]json.RawMessage{
		"queries": &raw.Queries, "statuses": &raw.Statuses, "messages": &raw.Messages, "stats": &raw.Stats,
	} {
		// A part that is no object is as good as absent; "" stands for empty.
		if json.Unmarshal(parts[key], into) != nil {
			*into = nil
		}
	}
	return raw, nil
}

func (r rawResults) result(id string) extension.Result {
	out := extension.Result{ID: id, Rows: rowsOf(r.Queries[id])}
	if raw, ok := r.Statuses[id]; ok {
		status, good := looseInt(raw)
		if !good {
			status = 1
		}
		out.Status = int(status)
	}
	if json.Unmarshal(r.Messages[id], &out.Message) != nil {
		out.Message = strings.Trim(string(r.Messages[id]), `"`)
	}
	out.Stats = statsOf(r.Stats[id])
	return out
}

// rowsOf returns the rows as osqueryd wrote them; absent, null and "" are no rows.
func rowsOf(raw json.RawMessage) json.RawMessage {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" || string(raw) == `""` {
		return json.RawMessage("[]")
	}
	return raw
}

// statsOf returns what a query cost; nil when osqueryd did not report it.
func statsOf(raw json.RawMessage) *extension.QueryStats {
	var parts map[string]json.RawMessage
	if json.Unmarshal(raw, &parts) != nil || len(parts) == 0 {
		return nil
	}
	number := func(key string) int64 {
		v, _ := looseInt(parts[key])
		return v
	}
	return &extension.QueryStats{
		WallTimeMS: number("wall_time_ms"), UserTime: number("user_time"),
		SystemTime: number("system_time"), Memory: number("memory"),
	}
}

// looseInt reads an integer that may be written as a string; "" is 0.
func looseInt(raw json.RawMessage) (int64, bool) {
	text := strings.Trim(string(raw), `" `)
	if text == "" {
		return 0, len(raw) > 0
	}
	v, err := strconv.ParseInt(text, 10, 64)
	return v, err == nil
}

// EncodeResults writes answers of the extension's own as osqueryd writes its.
func EncodeResults(results []extension.Result) ([]byte, error) {
	out := struct {
		Queries  map[string]json.RawMessage `json:"queries"`
		Statuses map[string]int             `json:"statuses"`
		Messages map[string]string          `json:"messages"`
	}{map[string]json.RawMessage{}, map[string]int{}, map[string]string{}}
	for _, r := range results {
		out.Queries[r.ID], out.Statuses[r.ID], out.Messages[r.ID] = rowsOf(r.Rows), r.Status, r.Message
	}
	return json.Marshal(out)
}
