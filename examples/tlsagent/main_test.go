package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
	"github.com/osqvisor/osqvisor/internal/tlstrial"
)

func TestMain(m *testing.M) {
	osquerydtest.Main()
	if tlstrial.IsAgent(os.Args) {
		os.Exit(agentMain(os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// each runs a test on the fake and, when OSQUERYD names one, on a real osqueryd.
func each(t *testing.T, test func(t *testing.T, osqueryd string)) {
	t.Helper()
	t.Run("fake", func(t *testing.T) { test(t, osquerydtest.FakeName) })
	if real := os.Getenv("OSQUERYD"); real != "" {
		t.Run("real", func(t *testing.T) { test(t, real) })
	}
}

// play runs the program, and returns its last line.
func play(t *testing.T, args ...string) tlstrial.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	code := tlstrial.Main(ctx, append(args, "-json"), &stdout, &stderr)
	t.Logf("%s%s", &stderr, &stdout)
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	var rep tlstrial.Report
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rep); err != nil {
		t.Fatalf("the last line is no report: %v", err)
	}
	return rep
}

// TestTour takes all steps, one right after the other, and 4 s at least.
func TestTour(t *testing.T) {
	each(t, func(t *testing.T, osqueryd string) {
		rep := play(t, "-osqueryd", osqueryd, "-for", "4s")
		if !rep.OK || rep.Produced < 3*ticksAtOnce || rep.Delivered != rep.Produced {
			t.Errorf("%+v", rep)
		}
		if rep.Queries != 9 || rep.Reenrolments != 3 {
			t.Errorf("%d distributed queries were answered, %d enrolments came again", rep.Queries, rep.Reenrolments)
		}
	})
}

func TestServerOfTheUser(t *testing.T) {
	each(t, func(t *testing.T, osqueryd string) {
		srv, err := remoteapitest.New()
		if err != nil {
			t.Fatal(err)
		}
		defer srv.Close()
		srv.SetFault(tlstrial.LoseAnswers(1))
		rep := play(t, "-server", srv.URL(), "-enroll-secret-path", write(t, "secret", []byte(srv.EnrollSecret()+"\n")),
			"-ca", write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})),
			"-osqueryd", osqueryd, "-for", "2s")
		if !rep.OK || rep.Produced == 0 || rep.Delivered != rep.Produced || rep.Reenrolments != 0 {
			t.Errorf("%+v", rep)
		}
		for _, id := range tlstrial.Names() {
			if got := (&tlstrial.Server{Server: srv}).Arrived(id); len(got) == 0 {
				t.Errorf("%s: the server has no lines", id)
			}
		}
	})
}

func write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	if code := tlstrial.Main(ctx, []string{"-json", "-osqueryd", osquerydtest.FakeName}, &stdout, &stderr); code != tlstrial.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(stdout.String(), tlstrial.ErrInterrupted.Error()) || !strings.Contains(stdout.String(), `"ok":false`) {
		t.Errorf("%s", &stdout)
	}
}

// TestWrongBinary: an agent that cannot start is not waited for.
func TestWrongBinary(t *testing.T) {
	var stdout, stderr bytes.Buffer
	missing := filepath.Join(t.TempDir(), "osqueryd")
	if code := tlstrial.Main(t.Context(), []string{"-json", "-osqueryd", missing}, &stdout, &stderr); code != tlstrial.ExitFailed {
		t.Errorf("exit code %d", code)
	}
	if !strings.Contains(stdout.String(), tlstrial.ErrAgentGone.Error()) {
		t.Errorf("%s", &stdout)
	}
}

func TestWrongFlags(t *testing.T) {
	for _, args := range []string{
		"-nonsense", "-for -1s", "rest", "-server https://x", "-enroll-secret-path f", "-ca f",
	} {
		var stdout, stderr bytes.Buffer
		code := tlstrial.Main(t.Context(), strings.Fields(args), &stdout, &stderr)
		if code != tlstrial.ExitUsage || stderr.Len() == 0 || stdout.Len() != 0 {
			t.Errorf("%s: exit code %d, %q, %q", args, code, &stdout, &stderr)
		}
	}
}
