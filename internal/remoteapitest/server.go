// Package remoteapitest is a small server for osquery's remote API, in-process and
// over TLS with a throw-away certificate: for tests and examples. It keeps all it
// is sent, can be taken away and brought back on the same address, fails as a
// script says, and forgets node keys.
//
//	server, err := remoteapitest.New()
//	…
//	defer server.Close()
//	client, err := remoteapi.New(server.URL(),
//		remoteapi.WithTLS(server.ClientTLS()),
//		remoteapi.WithEnrollSecret(remoteapi.EnrollSecret{Value: server.EnrollSecret()}))
//
// Hosts are known by their host_identifier. It is no server for production: what
// it is sent stays in memory until [Server.Forget].
package remoteapitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/extension/remoteapi"
)

// Server is the server. All methods may be called from any goroutine.
type Server struct {
	secret    string
	endpoints remoteapi.Endpoints
	cert      tls.Certificate
	tlsConfig *tls.Config
	address   string
	state     state
	faults    faults

	mu  sync.Mutex
	run *run // nil while taken away
}

// run is the time from Start to Stop.
type run struct {
	server *http.Server
	cancel context.CancelFunc
	calls  sync.WaitGroup // connections and the accept loop
}

// count is called with StateNew by the accept loop, which is counted itself, and
// with the others by the connection's goroutine when no handler runs in it.
func (r *run) count(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		r.calls.Add(1)
	case http.StateClosed, http.StateHijacked:
		r.calls.Done()
	}
}

// Option changes a [Server] under construction.
type Option func(*Server) error

// WithEnrollSecret sets the secret that enrolments must bring; default "enroll-secret".
func WithEnrollSecret(secret string) Option {
	return func(s *Server) error { s.secret = secret; return nil }
}

// WithEndpoints sets the paths; default [remoteapi.FleetEndpoints].
func WithEndpoints(e remoteapi.Endpoints) Option {
	return func(s *Server) error { s.endpoints = e; return nil }
}

// WithTLSConfig lets a test change the server's TLS: versions, client certificates.
func WithTLSConfig(change func(*tls.Config)) Option {
	return func(s *Server) error {
		if change == nil {
			return errors.New("remoteapitest: WithTLSConfig: nil function")
		}
		change(s.tlsConfig)
		return nil
	}
}

// New makes and starts a server on a free port of the loopback interface.
func New(opts ...Option) (*Server, error) {
	cert, err := newCertificate()
	if err != nil {
		return nil, fmt.Errorf("remoteapitest: certificate: %w", err)
	}
	s := &Server{
		secret: "enroll-secret", endpoints: remoteapi.FleetEndpoints(), cert: cert,
		tlsConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		address:   "127.0.0.1:0",
	}
	s.state.init()
	for _, opt := range opts {
		if err := opt(s); err != nil {
			return nil, err
		}
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	return s, nil
}

// Start brings the server back on the address it had. It is a no-op while running.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run != nil {
		return nil
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("remoteapitest: %w", err)
	}
	s.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	r := &run{cancel: cancel}
	r.server = &http.Server{
		Handler:           http.HandlerFunc(s.handle),
		ErrorLog:          log.New(io.Discard, "", 0),
		ReadHeaderTimeout: 10 * time.Second,
		ConnState:         r.count,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	r.calls.Go(func() { _ = r.server.Serve(tls.NewListener(listener, s.tlsConfig)) })
	s.run = r
	return nil
}

// Stop takes the server away: it closes the port and cuts all connections, and
// returns when no call is being served any more. What it recorded stays.
func (s *Server) Stop() {
	s.mu.Lock()
	r := s.run
	s.run = nil
	s.mu.Unlock()
	if r == nil {
		return
	}
	r.cancel()
	_ = r.server.Close()
	r.calls.Wait()
}

// Close is Stop, for defer and t.Cleanup.
func (s *Server) Close() { s.Stop() }

// URL returns "https://127.0.0.1:port"; it stays the same when the server comes back.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "https://" + s.address
}

// EnrollSecret returns the secret that enrolments need.
func (s *Server) EnrollSecret() string { return s.secret }

// Certificate returns the server's own certificate, which is its own root.
func (s *Server) Certificate() *x509.Certificate { return s.cert.Leaf }

// ClientTLS returns a configuration for clients that trust this server alone.
func (s *Server) ClientTLS() *tls.Config { return &tls.Config{RootCAs: s.RootCAs()} }

// RootCAs returns a pool with the server's certificate.
func (s *Server) RootCAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.cert.Leaf)
	return pool
}

// newCertificate makes a self-signed one for the loopback interface, good for a day.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		Subject:               pkix.Name{CommonName: "remoteapitest"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
