package remoteapi

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
)

func (s *settings) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion:           tls.VersionTLS12,
		RootCAs:              s.roots,
		ServerName:           s.serverName,
		GetClientCertificate: s.clientCert,
	}
	if len(s.pins) > 0 {
		// Not VerifyPeerCertificate: that one is skipped for resumed sessions.
		cfg.VerifyConnection = s.verifyPin
	}
	return cfg
}

func (s *settings) verifyPin(state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		for _, cert := range chain {
			if s.pins[sha256.Sum256(cert.RawSubjectPublicKeyInfo)] {
				return nil
			}
		}
	}
	return ErrPin
}

func (s *settings) usesTLS(option string) {
	s.connOptions = append(s.connOptions, option)
	s.tlsOptions = append(s.tlsOptions, option)
}

// WithRootCAs trusts these roots in place of the system's.
func WithRootCAs(pool *x509.CertPool) Option {
	return func(s *settings) error {
		if pool == nil {
			return errors.New("WithRootCAs: nil pool")
		}
		s.usesTLS("WithRootCAs")
		s.roots = pool
		return nil
	}
}

// WithRootCAFile trusts the PEM certificates of a file, read once by [New], in
// place of the system's roots, like osquery's tls_server_certs.
func WithRootCAFile(path string) Option {
	return func(s *settings) error {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("WithRootCAFile: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return fmt.Errorf("WithRootCAFile: no PEM certificate in %s", path)
		}
		s.usesTLS("WithRootCAFile")
		s.roots = pool
		return nil
	}
}

// WithClientCertificate shows this certificate to servers that ask for one.
func WithClientCertificate(cert tls.Certificate) Option {
	return func(s *settings) error {
		if len(cert.Certificate) == 0 || cert.PrivateKey == nil {
			return errors.New("WithClientCertificate: certificate or private key missing")
		}
		s.usesTLS("WithClientCertificate")
		s.clientCert = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		return nil
	}
}

// WithClientCertificateFiles shows the certificate of two PEM files, read at each
// handshake, so that renewed ones are taken up. They must be readable at once.
func WithClientCertificateFiles(certFile, keyFile string) Option {
	return func(s *settings) error {
		load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := tls.LoadX509KeyPair(certFile, keyFile)
			if err != nil {
				return nil, localError{fmt.Errorf("client certificate: %w", err)}
			}
			return &cert, nil
		}
		if _, err := load(nil); err != nil {
			return fmt.Errorf("WithClientCertificateFiles: %w", err)
		}
		s.usesTLS("WithClientCertificateFiles")
		s.clientCert = load
		return nil
	}
}

// WithPin demands, besides a valid chain, that a certificate of the chain has this
// public key: the SHA-256 of its SubjectPublicKeyInfo, in hex or in base64, with or
// without "sha256/" or "sha256//" before it. Several pins mean any of them.
func WithPin(pins ...string) Option {
	return func(s *settings) error {
		if len(pins) == 0 {
			return errors.New("WithPin: no pin")
		}
		for _, pin := range pins {
			sum, err := parsePin(pin)
			if err != nil {
				return fmt.Errorf("WithPin: %w", err)
			}
			s.pins[sum] = true
		}
		s.usesTLS("WithPin")
		return nil
	}
}

func parsePin(pin string) (sum [sha256.Size]byte, err error) {
	// Without its prefix a digest may still begin with a slash of its own.
	for _, prefix := range []string{"sha256//", "sha256/", ""} {
		text, found := strings.CutPrefix(pin, prefix)
		if !found {
			continue
		}
		raw, err := hex.DecodeString(text)
		if err != nil {
			raw, err = base64.StdEncoding.DecodeString(text)
		}
		if err == nil && len(raw) == sha256.Size {
			return [sha256.Size]byte(raw), nil
		}
	}
	return sum, fmt.Errorf("%q is not a SHA-256 in hex or base64", pin)
}

// WithServerName expects this name in the server's certificate, in place of the
// host of the URL.
func WithServerName(name string) Option {
	return func(s *settings) error {
		if name == "" {
			return errors.New("WithServerName: empty name")
		}
		s.usesTLS("WithServerName")
		s.serverName = name
		return nil
	}
}

// WithProxy chooses the proxy of each request; nil means none. The default is the
// environment: HTTPS_PROXY, NO_PROXY. http.ProxyURL makes one of a fixed URL.
func WithProxy(f func(*http.Request) (*url.URL, error)) Option {
	return func(s *settings) error {
		s.connOptions = append(s.connOptions, "WithProxy")
		s.proxy = f
		if f != nil {
			s.proxy = func(r *http.Request) (*url.URL, error) {
				u, err := f(r)
				if err != nil {
					err = localError{err}
				}
				return u, err
			}
		}
		return nil
	}
}

// WithHTTP2 allows HTTP/2. Without it each call under way has a connection of its
// own, so that one instance's slow upload cannot hold up another's.
func WithHTTP2() Option {
	return func(s *settings) error {
		s.connOptions = append(s.connOptions, "WithHTTP2")
		s.http2 = true
		return nil
	}
}

// WithInsecureHTTP allows a server URL of http. Node keys and enroll secrets then
// travel in the clear: for tests, or behind a local TLS proxy.
func WithInsecureHTTP() Option {
	return func(s *settings) error { s.insecure = true; return nil }
}

// WithHTTPClient sends by this client, copied, with redirects as the package's
// page says. TLS, proxies and connections are then the host's own business.
func WithHTTPClient(client *http.Client) Option {
	return func(s *settings) error {
		if client == nil {
			return errors.New("WithHTTPClient: nil client")
		}
		s.client = client
		return nil
	}
}

// WithRoundTripper sends by this round tripper, which may be called from several
// goroutines at once. TLS, proxies and connections are then its own business.
func WithRoundTripper(rt http.RoundTripper) Option {
	return func(s *settings) error {
		if rt == nil {
			return errors.New("WithRoundTripper: nil round tripper")
		}
		s.roundTripper = rt
		return nil
	}
}
