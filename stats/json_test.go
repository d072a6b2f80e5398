package stats

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestEveryEventMarshals(t *testing.T) {
	for _, e := range allEvents(at(1, "r1")) {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("%s: %v", e.Kind(), err)
		}
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %s: %v", e.Kind(), text, err)
		}
		want := map[string]any{"kind": e.Kind(), "time": "2030-01-01T00:00:01Z", "instance": "a", "run": "r1"}
		v := reflect.ValueOf(e)
		for i := 1; i < v.NumField(); i++ { // the first is Head
			key := fieldKey(v.Type().Field(i).Name)
			if _, twice := want[key]; twice {
				t.Errorf("%s: %q is used twice", e.Kind(), key)
			}
			switch f := v.Field(i).Interface().(type) {
			case time.Duration:
				want[key+"_ns"] = float64(f)
			case error:
				want[key] = f.Error()
			default:
				want[key] = throughJSON(t, f)
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %v\nwant %v", e.Kind(), got, want)
		}
	}
}

func throughJSON(t *testing.T, v any) (out any) {
	t.Helper()
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What a host sends to its server is pinned letter by letter; events nest in its own types.
func TestEventsMarshalTo(t *testing.T) {
	for want, v := range map[string]any{
		`{"kind":"instance added","instance":"a"}`:           InstanceAdded{Head{Instance: "a"}},
		`[{"kind":"run stopping","instance":"a","run":"r"}]`: []Event{RunStopping{Head{Instance: "a", Run: "r"}}},
		`{"kind":"run ended","instance":"","phase":"spawn","cause":"exit","pid":0,"code":-1,"uptime_ns":5,"error":"a \"b\""}`: RunEnded{Phase: PhaseSpawn,
			Cause: CauseExit, Code: -1, Uptime: 5, Err: errors.New(`a "b"`)},
	} {
		if text, err := json.Marshal(v); err != nil || string(text) != want {
			t.Errorf("%s, %v\nwant %s", text, err, want)
		}
	}
	if _, err := json.Marshal(InstanceAdded{Head{Time: time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)}}); err == nil {
		t.Error("a time that JSON cannot hold was not reported")
	}
}

func TestTotalsAllYieldsEveryTotal(t *testing.T) {
	var in Totals
	v := reflect.ValueOf(&in).Elem()
	for i := range v.NumField() {
		v.Field(i).SetUint(uint64(i + 1))
	}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]uint64{}
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(in.All()); !reflect.DeepEqual(got, want) || len(got) != v.NumField() {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for range in.All() {
		break // does not yield after that
	}
	var names []string
	for name := range in.All() {
		names = append(names, name)
	}
	if slices.Index(names, "runs") != 0 || slices.Index(names, "bytes_dropped") != len(names)-1 {
		t.Errorf("order %v", names)
	}
}
