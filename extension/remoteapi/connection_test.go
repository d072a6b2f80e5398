package remoteapi_test

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/extension/remoteapi"
	"github.com/osqvisor/osqvisor/internal/remoteapitest"
)

func TestTrust(t *testing.T) {
	server, stranger := start(t), start(t)
	sum := sha256.Sum256(server.Certificate().RawSubjectPublicKeyInfo)
	other := sha256.Sum256(stranger.Certificate().RawSubjectPublicKeyInfo)
	file := filepath.Join(t.TempDir(), "roots.pem")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	of := func(c remoteapi.TLSConfig) []remoteapi.Option {
		config, err := c.Build()
		if err != nil {
			t.Fatal(err)
		}
		return []remoteapi.Option{remoteapi.WithTLS(config)}
	}
	base := base64.StdEncoding.EncodeToString(sum[:])
	for name, c := range map[string]struct {
		opts []remoteapi.Option
		ok   bool
		is   error
	}{
		"roots":           {[]remoteapi.Option{remoteapi.WithTLS(server.ClientTLS())}, true, nil},
		"root file":       {of(remoteapi.TLSConfig{RootCAFile: file}), true, nil},
		"system roots":    {nil, false, nil},
		"other roots":     {[]remoteapi.Option{remoteapi.WithTLS(stranger.ClientTLS())}, false, nil},
		"pin hex":         {of(remoteapi.TLSConfig{RootCAFile: file, Pins: []string{hex.EncodeToString(sum[:])}}), true, nil},
		"pin base64":      {of(remoteapi.TLSConfig{RootCAFile: file, Pins: []string{"sha256/" + base}}), true, nil},
		"pin curl":        {of(remoteapi.TLSConfig{RootCAFile: file, Pins: []string{"sha256//" + base}}), true, nil},
		"one of two pins": {of(remoteapi.TLSConfig{RootCAFile: file, Pins: []string{hex.EncodeToString(other[:]), base}}), true, nil},
		"other pin":       {of(remoteapi.TLSConfig{RootCAFile: file, Pins: []string{hex.EncodeToString(other[:])}}), false, remoteapi.ErrPin},
		"pin is no trust": {of(remoteapi.TLSConfig{Pins: []string{base}}), false, nil},
		"server name":     {of(remoteapi.TLSConfig{RootCAFile: file, ServerName: "localhost"}), true, nil},
		"other name":      {of(remoteapi.TLSConfig{RootCAFile: file, ServerName: "fleet.example"}), false, nil},
	} {
		client := dial(t, server.URL(), append(c.opts, secretIs(server.EnrollSecret()))...)
		_, err := client.Enroll(within(t, 10*time.Second), ofHost("a"))
		if (err == nil) != c.ok || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	server := start(t, remoteapitest.WithTLSConfig(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }))
	client := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()))
	_, err := client.Config(within(t, 10*time.Second), extension.Node{Key: "key"})
	if err == nil || len(server.Requests()) != 0 {
		t.Errorf("TLS 1.1 was accepted: %v", err)
	}
}

func TestClientCertificate(t *testing.T) {
	var own tls.Certificate
	server := start(t, remoteapitest.WithTLSConfig(func(c *tls.Config) {
		c.ClientAuth = tls.RequireAnyClientCert
		own = c.Certificates[0]
	}))
	secret := secretIs(server.EnrollSecret())
	with := server.ClientTLS()
	with.Certificates = []tls.Certificate{own}
	enrolled(t, dial(t, server.URL(), remoteapi.WithTLS(with), secret), "a")
	certFile, keyFile := writePair(t, own)
	config, err := remoteapi.TLSConfig{RootCAFile: certFile, CertFile: certFile, KeyFile: keyFile}.Build()
	if err != nil {
		t.Fatal(err)
	}
	byFile := dial(t, server.URL(), remoteapi.WithTLS(config), secret)
	enrolled(t, byFile, "a")
	if err := os.Remove(keyFile); err != nil { // read again at the next handshake
		t.Fatal(err)
	}
	byFile.CloseIdleConnections()
	if _, err := byFile.Enroll(within(t, 10*time.Second), ofHost("a")); err == nil || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("without its key file: %v", err)
	}
	without := dial(t, server.URL(), remoteapi.WithTLS(server.ClientTLS()), secret)
	if _, err := without.Enroll(within(t, 10*time.Second), ofHost("a")); err == nil {
		t.Error("enrolled without a client certificate")
	}
}

// writePair writes a certificate and its key as PEM files.
func writePair(t *testing.T, pair tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestHTTP2(t *testing.T) {
	server := start(t, remoteapitest.WithTLSConfig(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }))
	for want, protos := range map[int32][]string{1: nil, 2: {"h2", "http/1.1"}} {
		config := server.ClientTLS()
		config.NextProtos = protos
		client := dial(t, server.URL(), remoteapi.WithTLS(config), secretIs(server.EnrollSecret()))
		var got atomic.Int32
		server.SetFault(func(_ remoteapitest.Call, r *http.Request) remoteapitest.Fault {
			got.Store(int32(r.ProtoMajor))
			return nil
		})
		enrolled(t, client, "a")
		if got.Load() != want {
			t.Errorf("HTTP/%d, want HTTP/%d", got.Load(), want)
		}
	}
}

func TestRedirects(t *testing.T) {
	server, elsewhere := start(t), start(t)
	both := server.RootCAs()
	both.AddCert(elsewhere.Certificate())
	client := dial(t, server.URL(), remoteapi.WithTLS(&tls.Config{RootCAs: both}), secretIs(server.EnrollSecret()))
	node := enrolled(t, client, "a")
	to := func(status int, url string) remoteapitest.Fault {
		return remoteapitest.Answer(status, "", "Location", url)
	}
	path := remoteapi.FleetEndpoints().Log
	for _, c := range []struct {
		fault remoteapitest.Fault
		times int
		want  int // the status that comes out; 0 for success
	}{
		{to(307, path), 1, 0}, {to(308, server.URL()+path), 1, 0}, {to(307, path), 3, 0},
		{to(307, path), 4, 307},                 // as in a loop
		{to(302, path), 1, 302},                 // would become a GET
		{to(307, elsewhere.URL()+path), 1, 307}, // another port
		{to(307, "http"+server.URL()[len("https"):]+path), 1, 307},
	} {
		server.FailNext(remoteapitest.CallLog, c.times, c.fault)
		err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`))
		var status *remoteapi.StatusError
		if (err == nil) != (c.want == 0) || err != nil && (!errors.As(err, &status) || status.Status != c.want) {
			t.Errorf("%d redirects: %v, want %d", c.times, err, c.want)
		}
	}
	if got := len(elsewhere.Requests()); got != 0 {
		t.Errorf("%d requests went to another server", got)
	}
}

// TestServerAwayAndBack: what was up is up again on the same address, with the same
// node keys, and the client needs no help.
func TestServerAwayAndBack(t *testing.T) {
	server, client := serve(t)
	node := enrolled(t, client, "a")
	url := server.URL()
	for i := range 3 {
		if err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`)); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		if err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`)); err == nil {
			t.Fatal("nil while the server was away")
		}
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if server.URL() != url || len(server.Batches("a")) != i+1 {
			t.Fatalf("back at %s with %d batches", server.URL(), len(server.Batches("a")))
		}
	}
	server.InvalidateKeys("a")
	if err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`)); !errors.Is(err, extension.ErrNodeInvalid) {
		t.Fatalf("after InvalidateKeys: %v", err)
	}
	node = enrolled(t, client, "a")
	if err := client.PublishLogs(within(t, 10*time.Second), node, batch(`{}`)); err != nil {
		t.Fatal(err)
	}
}

// TestStopEndsHungCalls: the server goes away even with calls in it.
func TestStopEndsHungCalls(t *testing.T) {
	server, client := serve(t)
	arrived := make(chan struct{})
	server.FailNext(remoteapitest.CallConfig, 1, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		close(arrived)
		<-r.Context().Done()
	})
	done := make(chan error, 1)
	go func() {
		_, err := client.Config(within(t, 20*time.Second), extension.Node{Key: "key"})
		done <- err
	}()
	<-arrived
	server.Stop()
	if err := <-done; err == nil {
		t.Error("nil from a server that went away")
	}
}
