package remoteapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

// badAnswer is one way to answer wrongly, and what must come of it: a reason of
// AnswerError, or a status of StatusError.
type badAnswer struct {
	name   string
	fault  remoteapitest.Fault
	reason remoteapi.Reason
	status int
}

func badAnswers() []badAnswer {
	answer := remoteapitest.Answer
	return []badAnswer{
		{"HTML", remoteapitest.HTML(), remoteapi.ReasonNotJSON, 0},
		{"HTML 502", answer(502, "<html>bad gateway", "Content-Type", "text/html"), "", 502},
		{"empty", answer(200, ""), remoteapi.ReasonEmpty, 0},
		{"blank", answer(200, " \n"), remoteapi.ReasonEmpty, 0},
		{"204", answer(204, ""), remoteapi.ReasonEmpty, 0},
		{"500 empty", answer(500, ""), "", 500},
		{"500 JSON", answer(500, `{"error":"database"}`), "", 500},
		{"500 array", answer(500, `[1]`), "", 500},
		{"404", answer(404, `not found`), "", 404},
		{"400", answer(400, `{}`), "", 400},
		{"302", answer(302, `{}`, "Location", "/login"), "", 302},
		{"308 elsewhere", answer(308, `{}`, "Location", "https://elsewhere.invalid/api"), "", 308},
		{"null", answer(200, `null`), remoteapi.ReasonWrongType, 0},
		{"array", answer(200, `[]`), remoteapi.ReasonWrongType, 0},
		{"string", answer(200, `"ok"`), remoteapi.ReasonWrongType, 0},
		{"number", answer(200, `1`), remoteapi.ReasonWrongType, 0},
		{"half", answer(200, `{"node_key":"x"`), remoteapi.ReasonNotJSON, 0},
		{"two", answer(200, `{"node_key":"x"}{}`), remoteapi.ReasonNotJSON, 0},
		{"node_invalid a string", answer(200, `{"node_invalid":"true"}`), remoteapi.ReasonWrongType, 0},
		{"error", answer(200, `{"error":"no"}`), remoteapi.ReasonRefused, 0},
		{"100 MB", remoteapitest.Large(100 << 20), remoteapi.ReasonTooLarge, 0},
		{"hang", remoteapitest.Hang(), remoteapi.ReasonTimeout, 0},
		{"drip", remoteapitest.Drip(10 * time.Millisecond), remoteapi.ReasonTimeout, 0},
		{"cut short", remoteapitest.CutShort(), remoteapi.ReasonBroken, 0},
	}
}

func TestBadAnswersAreTypedErrors(t *testing.T) {
	for _, bad := range badAnswers() {
		t.Run(bad.name, func(t *testing.T) {
			t.Parallel()
			timeout := 10 * time.Second
			if bad.reason == remoteapi.ReasonTimeout {
				timeout = 200 * time.Millisecond
			}
			server, client := serve(t, remoteapi.WithLimits(remoteapi.Limits{Config: 1 << 20, Answer: 64 << 10, Timeout: timeout}))
			for _, c := range apiCalls() {
				server.FailNext(c.name, 1, bad.fault)
				err := c.do(within(t, 30*time.Second), client, extension.Node{Key: "key", Instance: "a"})
				bad.check(t, c.name, err)
			}
		})
	}
}

func (b badAnswer) check(t *testing.T, call remoteapitest.Call, err error) {
	t.Helper()
	if errors.Is(err, extension.ErrNodeInvalid) || errors.Is(err, extension.ErrPermanent) {
		t.Errorf("%s: %v is neither a bad key nor permanent", call, err)
	}
	var answer *remoteapi.AnswerError
	var status *remoteapi.StatusError
	switch {
	case b.status != 0 && (!errors.As(err, &status) || status.Status != b.status):
		t.Errorf("%s: got %v, want a StatusError of %d", call, err, b.status)
	case b.status == 0 && !errors.As(err, &answer):
		t.Errorf("%s: got %v, want an AnswerError", call, err)
	case b.status == 0 && answer.Reason != b.reason:
		t.Errorf("%s: got %v, want the reason %q", call, err, b.reason)
	}
}

func TestCutConnection(t *testing.T) {
	server, client := serve(t)
	for _, c := range apiCalls() {
		server.FailNext(c.name, 1, remoteapitest.Cut())
		if err := c.do(within(t, 10*time.Second), client, extension.Node{Key: "key", Instance: "a"}); err == nil {
			t.Errorf("%s: nil", c.name)
		}
	}
	// Not repeated behind the caller's back: one request each.
	if got := len(server.Requests()); got != len(apiCalls()) {
		t.Errorf("%d requests for %d calls", got, len(apiCalls()))
	}
}

func TestWrongTypesInside(t *testing.T) {
	server, client := serve(t)
	node := enrolled(t, client, "a")
	for call, bodies := range map[remoteapitest.Call][]string{
		remoteapitest.CallRead: {
			`{"queries":[]}`, `{"queries":"none"}`, `{"queries":{"q":1}}`, `{"queries":{"q":null}}`, `{"queries":{"q":{"sql":"x"}}}`,
			`{"queries":{},"discovery":["x"]}`, `{"queries":{},"accelerate":"5"}`, `{"accelerate":1.5}`, `{"accelerate":99999999999}`,
		},
		remoteapitest.CallEnroll: {
			`{}`, `{"node_key":""}`, `{"node_key":7}`, `{"node_key":null}`, `{"node_key":{"a":1}}`, "{\"node_key\":\"a\\nb\"}",
		},
	} {
		for _, body := range bodies {
			server.FailNext(call, 1, remoteapitest.Answer(200, body))
			for _, c := range apiCalls() {
				if c.name != call {
					continue
				}
				err := c.do(within(t, 10*time.Second), client, node)
				badAnswer{reason: remoteapi.ReasonWrongType}.check(t, call+" "+remoteapitest.Call(body), err)
			}
		}
	}
}

func TestNodeInvalidUnderAnyStatus(t *testing.T) {
	server, client := serve(t)
	for _, status := range []int{200, 202, 400, 401, 403, 413, 429, 500, 503} {
		for _, c := range apiCalls() {
			server.FailNext(c.name, 1, remoteapitest.NodeInvalid(status))
			err := c.do(within(t, 10*time.Second), client, extension.Node{Key: "key", Instance: "a"})
			// While enrolling there is no key yet that could be invalid.
			if want := c.name != remoteapitest.CallEnroll; err == nil || errors.Is(err, extension.ErrNodeInvalid) != want {
				t.Errorf("%s %d: %v", c.name, status, err)
			}
		}
	}
	server.FailNext(remoteapitest.CallConfig, 1, remoteapitest.Answer(200, `{"node_invalid":false,"schedule":{}}`))
	if _, err := client.Config(within(t, 10*time.Second), extension.Node{Key: "key"}); err != nil {
		t.Errorf("node_invalid false: %v", err)
	}
}

func TestStatusPolicy(t *testing.T) {
	server, client := serve(t, remoteapi.WithLimits(remoteapi.Limits{RetryAfter: time.Minute}))
	in40s := time.Now().Add(40 * time.Second).UTC().Format(http.TimeFormat)
	past := time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	for _, c := range []struct {
		status    int
		header    string
		after     time.Duration
		permanent bool
	}{
		{429, "7", 7 * time.Second, false}, {503, "7", 7 * time.Second, false}, {503, in40s, 40 * time.Second, false},
		{413, "7", 7 * time.Second, false}, {413, "", 0, true}, {422, "", 0, true}, {400, "", 0, false}, {401, "", 0, false},
		{429, "", 0, false}, {503, "0", 0, false}, {503, "-5", 0, false}, {503, "soon", 0, false}, {503, past, 0, false},
		{503, "2000000000", time.Minute, false}, {503, "99999999999999999999", 0, false},
		{503, "Fri, 31 Dec 9999 23:59:59 GMT", time.Minute, false},
	} {
		server.FailNext(remoteapitest.CallLog, 1, remoteapitest.Answer(c.status, `{}`, "Retry-After", c.header))
		err := client.PublishLogs(within(t, 10*time.Second), extension.Node{Key: "k-e-y"}, batch(`{}`))
		var status *remoteapi.StatusError
		if !errors.As(err, &status) || status.Status != c.status || errors.Is(err, extension.ErrPermanent) != c.permanent {
			t.Errorf("%d %q: %v", c.status, c.header, err)
		}
		var after *extension.RetryAfterError
		if errors.As(err, &after) != (c.after > 0) {
			t.Errorf("%d %q: %v", c.status, c.header, err)
		} else if after != nil && (after.After > c.after || after.After < c.after-5*time.Second) {
			t.Errorf("%d %q: after %v, want %v", c.status, c.header, after.After, c.after)
		}
	}
	server.FailNext(remoteapitest.CallConfig, 1, remoteapitest.Answer(413, `{}`))
	if _, err := client.Config(within(t, 10*time.Second), extension.Node{Key: "key"}); errors.Is(err, extension.ErrPermanent) {
		t.Errorf("a config call carries no data that could be refused for good: %v", err)
	}
}

func TestPermanentStatusOption(t *testing.T) {
	server, client := serve(t, remoteapi.WithQuirks(remoteapi.Quirks{PermanentStatuses: []int{400}}))
	for status, want := range map[int]bool{400: true, 413: false} {
		server.FailNext(remoteapitest.CallLog, 1, remoteapitest.Answer(status, ``))
		err := client.PublishLogs(within(t, 10*time.Second), extension.Node{Key: "key"}, batch(`{}`))
		if errors.Is(err, extension.ErrPermanent) != want {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestCallerGivingUpIsNotTheServersFault(t *testing.T) {
	server, client := serve(t)
	server.FailNext(remoteapitest.CallConfig, 2, remoteapitest.Drip(time.Millisecond))
	_, err := client.Config(within(t, 50*time.Millisecond), extension.Node{Key: "key"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("deadline: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stop := time.AfterFunc(50*time.Millisecond, cancel)
	defer stop.Stop()
	if _, err = client.Config(ctx, extension.Node{Key: "key"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestSecretsAppearInNoError has every call fail in every way, with a server that
// echoes what it was sent.
func TestSecretsAppearInNoError(t *testing.T) {
	const key, secret, header = "very-secret-node-key", "very-secret-enroll", "very-secret-header"
	server := start(t)
	client := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()), secretIs(secret),
		remoteapi.WithHeader("X-Gateway", header), remoteapi.WithLimits(remoteapi.Limits{Timeout: 300 * time.Millisecond}))
	echo := "could not find " + key + " nor " + secret + " nor " + header
	faults := []remoteapitest.Fault{
		remoteapitest.Answer(500, fmt.Sprintf(`{"error":%q}`, echo)), remoteapitest.Answer(200, fmt.Sprintf(`{"error":%q}`, echo)),
		remoteapitest.Answer(401, fmt.Sprintf(`{"message":%q,"node_invalid":true}`, strings.Repeat("x", 290)+echo)),
		remoteapitest.Answer(500, "", "Content-Type", echo), remoteapitest.Answer(307, "", "Location", "https://other.invalid/"+key),
		remoteapitest.Answer(307, "", "Location", "%zz"+key),
		remoteapitest.Hang(), remoteapitest.Cut(), remoteapitest.CutShort(), rawAnswer("HTTP/1.1 " + key + secret + "\r\n\r\n"),
		rawAnswer(secret + header + key + "\r\n"),
	}
	for i, fault := range faults {
		for _, c := range apiCalls() {
			server.FailNext(c.name, 1, fault)
			err := c.do(within(t, 10*time.Second), client, extension.Node{Key: key, Instance: "a"})
			if err == nil {
				t.Errorf("%s, fault %d: nil", c.name, i)
				continue
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v %#v", err, err)} {
				if strings.Contains(text, "very-secret") || strings.Contains(text, "cret-") {
					t.Errorf("%s, fault %d: a secret in %s", c.name, i, text)
				}
			}
		}
	}
	server.Stop()
	for _, c := range apiCalls() {
		err := c.do(within(t, 10*time.Second), client, extension.Node{Key: key, Instance: "a"})
		if err == nil || strings.Contains(err.Error(), "very-secret") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// rawAnswer writes bytes that are not HTTP.
func rawAnswer(text string) remoteapitest.Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(text))
	}
}
