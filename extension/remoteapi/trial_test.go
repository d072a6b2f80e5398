package remoteapi_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// TestTrial23KeyBesideNodeInvalid: a key that the server calls invalid in the same answer is none.
func TestTrial23KeyBesideNodeInvalid(t *testing.T) {
	server, client := serve(t)
	for _, body := range []string{
		`{"node_key":"k","node_invalid":true}`, `{"id":"k","node_invalid":true}`, `{"node_key":"k","node_invalid":"true"}`,
	} {
		server.FailNext(remoteapitest.CallEnroll, 1, remoteapitest.Answer(200, body))
		if key, err := client.Enroll(within(t, 10*time.Second), ofHost("a")); err == nil || key != "" {
			t.Errorf("%s: key %q, %v", body, key, err)
		}
	}
	server.FailNext(remoteapitest.CallEnroll, 1, remoteapitest.Answer(200, `{"node_key":"k","node_invalid":false}`))
	if key, err := client.Enroll(within(t, 10*time.Second), ofHost("a")); err != nil || key != "k" {
		t.Errorf("node_invalid false: key %q, %v", key, err)
	}
}

// TestTrial24RetryAfterByTheServersClock: a server whose clock is wrong means the wait that it wrote.
func TestTrial24RetryAfterByTheServersClock(t *testing.T) {
	server, client := serve(t)
	for _, skew := range []time.Duration{-55 * time.Minute, 0, 55 * time.Minute, 1000 * time.Hour} {
		date := time.Now().Add(skew).UTC().Truncate(time.Second)
		server.FailNext(remoteapitest.CallLog, 1, remoteapitest.Answer(503, `{}`,
			"Date", date.Format(http.TimeFormat), "Retry-After", date.Add(5*time.Second).Format(http.TimeFormat)))
		err := client.PublishLogs(within(t, 10*time.Second), extension.Node{Key: "key"}, batch(`{}`))
		var after *extension.RetryAfterError
		if !errors.As(err, &after) || after.After != 5*time.Second {
			t.Errorf("a clock %v ahead: %v", skew, err)
		}
	}
}

// TestTrial25ClosedConnectionIsRepeated: what only reads is asked again, once, when the server closed
// the kept-alive connection that it was asked on; what changes something at the server is not.
func TestTrial25ClosedConnectionIsRepeated(t *testing.T) {
	for _, c := range apiCalls() {
		server, client := serve(t, remoteapi.WithQuirks(remoteapi.Quirks{NoBatchHeaders: true}))
		node := enrolled(t, client, "a")
		if _, err := client.Config(within(t, 10*time.Second), node); err != nil { // the connection is kept alive
			t.Fatal(err)
		}
		before := len(server.Requests())
		server.FailNext(c.name, 1, remoteapitest.Cut())
		err := c.do(within(t, 10*time.Second), client, node)
		requests := server.Requests()[before:]
		repeats := c.name == remoteapitest.CallConfig || c.name == remoteapitest.CallRead
		want := 1
		if repeats {
			want = 2
		}
		if (err == nil) != repeats || len(requests) != want {
			t.Errorf("%s: %v after %d requests, want %d", c.name, err, len(requests), want)
		}
		for _, r := range requests {
			if len(r.Header.Values(remoteapi.HeaderBatchID)) > 0 {
				t.Errorf("%s: the header of a batch was sent", c.name)
			}
		}
		// A fresh connection that is closed is a failure: nothing is repeated without end.
		server.FailNext(c.name, 2, remoteapitest.Cut())
		client.CloseIdleConnections()
		if err := c.do(within(t, 10*time.Second), client, node); err == nil {
			t.Errorf("%s: nil although the server cut the connection twice", c.name)
		}
	}
}

// echoes are ways in which a server may repeat a secret.
func echoes(secret string) []string {
	spaced := strings.Join(strings.Split(secret, ""), " ")
	reversed := []rune(secret)
	slices.Reverse(reversed)
	var percent, unicode strings.Builder
	for _, b := range []byte(secret) {
		fmt.Fprintf(&percent, "%%%02X", b)
		fmt.Fprintf(&unicode, `\u%04x`, b)
	}
	return []string{
		secret, url.QueryEscape(secret), percent.String(), strings.ToUpper(secret), secret[:len(secret)-1], secret[1:],
		secret[:len(secret)/2] + " … " + secret[len(secret)/2:], spaced, string(reversed), unicode.String(),
		base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte("x" + secret)),
		hex.EncodeToString([]byte(secret)), strings.Repeat("x", 290) + secret, "node key " + secret + " is invalid",
	}
}

// quoted gives every fault with which a server puts text into its answer.
func quoted(text string) []remoteapitest.Fault {
	value, _ := json.Marshal(text)
	answer := remoteapitest.Answer
	header := url.QueryEscape(text)
	return []remoteapitest.Fault{
		answer(500, `{"error":`+string(value)+`}`), answer(200, `{"error":`+string(value)+`}`),
		answer(200, `{"error":`+text+`}`), answer(200, `{"node_invalid":`+string(value)+`}`),
		answer(401, `{"message":`+string(value)+`,"node_invalid":true}`),
		answer(200, `{"status":"error","message":`+string(value)+`,"success":false}`),
		answer(200, `{"queries":`+string(value)+`}`), answer(200, `{"queries":{`+string(value)+`:7}}`),
		answer(200, text), answer(200, "<"+text),
		answer(500, "", "Content-Type", header), answer(500, "", "Content-Type", "text/html; charset="+header),
		answer(503, "", "Retry-After", header), answer(307, "", "Location", "https://other.invalid/"+header),
		answer(307, "", "Location", "%zz"+header), answer(200, "x", "Content-Encoding", header), answer(413, `{"error":`+string(value)+`}`),
		rawAnswer("HTTP/1.1 " + header + "\r\n\r\n"), rawAnswer("HTTP/1.1 500 " + text + "\r\n\r\n"), rawAnswer(text + "\r\n"),
		rawAnswer("HTTP/1.1 200 OK\r\n" + text + "\r\n\r\n"), rawAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: " + header + "\r\n\r\n"),
		rawAnswer("HTTP/1.1 200 OK\r\nContent-Length: " + header + "\r\n\r\n"),
		rawAnswer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + header + "\r\n"),
	}
}

// TestTrial32ErrorsDoNotDependOnWhatIsEchoed: a server that repeats a secret, in whatever form, gets the
// same error as one that repeats another: nothing of it is in there.
func TestTrial32ErrorsDoNotDependOnWhatIsEchoed(t *testing.T) {
	const one, two = "Kq7-first/much value+a=1b", "Zx3-other/many letter+c=2d"
	server := start(t)
	texts := func(call apiCall, secret, echo string) (out []string) {
		client := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()), secretIs(secret),
			remoteapi.WithHeader("X-Gateway", "Bearer "+secret))
		for i, fault := range quoted(echo) {
			server.FailNext(call.name, 1, fault)
			err := call.do(within(t, 10*time.Second), client, extension.Node{Key: secret, Instance: "a"})
			out = append(out, fmt.Sprintf("fault %d: %v\n%s", i, err, shown(err)))
		}
		return out
	}
	for i, echo := range echoes(one) {
		for _, call := range apiCalls()[:3] { // enroll, config, logs
			got, other := texts(call, one, echo), texts(call, two, echoes(two)[i])
			for j := range got {
				if got[j] != other[j] && !strings.HasSuffix(got[j], "<nil>\n") {
					t.Errorf("%s, echo %q: %s\nand for another secret: %s", call.name, echo, got[j], other[j])
				}
			}
		}
	}
}

// shown is what %#v shows of each error in the chain, which a logger may print.
func shown(err error) string {
	var out strings.Builder
	var status *remoteapi.StatusError
	if errors.As(err, &status) {
		fmt.Fprintf(&out, "%#v", *status)
	}
	var answer *remoteapi.AnswerError
	if errors.As(err, &answer) {
		fmt.Fprintf(&out, "%s %s %v", answer.Call, answer.Reason, answer.Detail)
	}
	return out.String()
}

// TestTrial32ErrorsSayWhatTheServerSpeaksOf: that much of a server's message is there, in words of our own.
func TestTrial32ErrorsSayWhatTheServerSpeaksOf(t *testing.T) {
	server, client := serve(t)
	for text, want := range map[string]string{
		"Enrollment failed: invalid enroll_secret": "the enroll secret", "node key is invalid": "the node key",
		"rate limit exceeded": "a limit of its own", "certificate required": "certificate", "PostgreSQL: database is locked": "its database",
		"x": "",
	} {
		server.FailNext(remoteapitest.CallConfig, 1, remoteapitest.Answer(500, fmt.Sprintf(`{"error":%q}`, text)))
		_, err := client.Config(context.Background(), extension.Node{Key: "key"})
		if err == nil || !strings.Contains(err.Error(), want) || want == "" && strings.Contains(err.Error(), "mentions") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
