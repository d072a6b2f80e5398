package remoteapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/osqvisor/osqvisor/extension"
)

func TestBody(t *testing.T) {
	b := newBody([]byte("ab"), nil, []byte("c"), []byte(""), []byte("defg"))
	for size := 1; size <= 9; size++ {
		var got []byte
		r, buf := b.reader(), make([]byte, size)
		for {
			n, err := r.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != "abcdefg" || b.length != 7 {
			t.Errorf("by %d: %q of %d", size, got, b.length)
		}
	}
	r := b.reader()
	b.release()
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, errReleased) {
		t.Errorf("after release: %d, %v", n, err)
	}
}

// lateReader is a RoundTripper that goes on reading after it has returned, as
// net/http may.
type lateReader struct{ bodies chan io.ReadCloser }

func (l lateReader) RoundTrip(req *http.Request) (*http.Response, error) {
	l.bodies <- req.Body
	return nil, errors.New("no connection")
}

// TestLinesAreNotReadAfterTheCall: once a call is over, the lines are the caller's.
func TestLinesAreNotReadAfterTheCall(t *testing.T) {
	late := lateReader{make(chan io.ReadCloser, 1)}
	client, err := New("https://fleet.example", WithHTTPClient(&http.Client{Transport: late}))
	if err != nil {
		t.Fatal(err)
	}
	batch := extension.Batch{ID: "b", Lines: [][]byte{[]byte(`{}`)}}
	if err := client.PublishLogs(t.Context(), extension.Node{Key: "k"}, batch); err == nil {
		t.Fatal("nil without a connection")
	}
	if data, err := io.ReadAll(<-late.bodies); len(data) != 0 || !errors.Is(err, errReleased) {
		t.Errorf("read %q, %v after the call", data, err)
	}
}

func TestElement(t *testing.T) {
	for line, want := range map[string]string{
		`{"a": 1}`: `{"a": 1}`, "": `""`, "plain": `"plain"`, `"a"`: `"a"`, `{}{}`: `"{}{}"`, "\xff": `"\ufffd"`, "{\"a\":\"\xff\"}": "{\"a\":\"\uFFFD\"}",
	} {
		if got := string(element([]byte(line))); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
}

func TestResultsBodyOfBadRows(t *testing.T) {
	b, err := resultsBody("k", []extension.Result{
		{ID: "bad", Rows: json.RawMessage(`[{]`)},
		{ID: "good", Rows: json.RawMessage(`[{"a":"1"}]`)},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := io.ReadAll(b.reader())
	want := `{"node_key":"k","queries":{"bad":[],"good":[{"a":"1"}]},"statuses":{"bad":"1","good":"0"},` +
		`"messages":{"bad":"the rows of this result were not valid JSON and have been left out","good":""},"stats":{"bad":{},"good":{}}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestPrivateErrors: hiding what an error quotes does not hide what went wrong.
func TestPrivateErrors(t *testing.T) {
	hidden := private(fmt.Errorf("very-secret: %w", ErrPin))
	if text := fmt.Sprintf("%v %#v", hidden, hidden); strings.Contains(text, "very-secret") {
		t.Errorf("a secret in %s", text)
	}
	if !errors.Is(hidden, ErrPin) || errors.Is(hidden, errTooSlow) || private(nil) != nil {
		t.Errorf("%v is not what it was", hidden)
	}
	dial := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443}, Err: syscall.ECONNREFUSED}
	if got, want := private(dial).Error(), dial.Error(); got != want {
		t.Errorf("an error of this system is %q, want %q", got, want)
	}
}

func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		``, ` `, `null`, `[]`, `{}`, `{"node_key":"k"}`, `{"id":"k","node_invalid":true}`, `{"node_invalid":1}`, `<html>`, "\xff",
		`{"queries":{"q":"select 1"},"discovery":{"q":"select 1"},"accelerate":60}`, `{"accelerate":-1}`, `{"queries":{"q":null}}`, `{"error":"x"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var bad *AnswerError
		fields, err := parseFields(callRead, data)
		if err != nil {
			if !errors.As(err, &bad) {
				t.Fatalf("%v is no AnswerError", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatal("accepted what is not JSON")
		}
		if set, err := parseQueries(fields); err != nil && !errors.As(err, &bad) || set.AccelerateSeconds < 0 {
			t.Fatalf("%+v, %v", set, err)
		}
		key, err := parseNodeKey(fields)
		if err != nil && !errors.As(err, &bad) || (key == "") != (err != nil) || strings.ContainsAny(key, "\r\n\x00") {
			t.Fatalf("%q, %v", key, err)
		}
		if err := refusal(fields, request{call: callRead}); err != nil && !errors.As(err, &bad) {
			t.Fatalf("%v is no AnswerError", err)
		}
	})
}

// FuzzLogBody: whatever the lines, the body is valid JSON with one element each.
func FuzzLogBody(f *testing.F) {
	f.Add("key", []byte(`{"a":1}`), []byte("\xff\n"))
	f.Fuzz(func(t *testing.T, key string, one, two []byte) {
		b := logBody(key, extension.Batch{Queue: extension.QueueStatus, Lines: [][]byte{one, two}})
		data, err := io.ReadAll(b.reader())
		if err != nil || int64(len(data)) != b.length || !utf8.Valid(data) {
			t.Fatalf("%d bytes of %d, %v", len(data), b.length, err)
		}
		var got struct {
			Data []json.RawMessage `json:"data"`
		}
		if err := json.Unmarshal(data, &got); err != nil || len(got.Data) != 2 {
			t.Fatalf("%d elements, %v in %s", len(got.Data), err, data)
		}
		if json.Valid(one) && utf8.Valid(one) && !bytes.Equal(bytes.TrimSpace(one), got.Data[0]) {
			t.Fatalf("%q became %q", one, got.Data[0])
		}
	})
}
