package remoteapi

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLSConfig describes a *tls.Config for [WithTLS]. All fields are optional.
type TLSConfig struct {
	// RootCAFile is a PEM file of the roots to trust instead of the system's.
	RootCAFile string
	// CertFile and KeyFile are the PEM files of the client's certificate, read at each
	// handshake.
	CertFile, KeyFile string
	// ServerName is the name in the server's certificate; default: the URL's host.
	ServerName string
	// Pins are SHA-256 digests of a SubjectPublicKeyInfo, in hex or base64, optionally after
	// "sha256/" or "sha256//". If there are any, one must be in the chain, which must be valid.
	Pins []string
}

// Build returns the *tls.Config, or every mistake at once.
func (c TLSConfig) Build() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	err := errors.Join(c.addRoots(config), c.addCertificate(config), c.addPins(config))
	if err != nil {
		return nil, fmt.Errorf("remoteapi: TLSConfig: %w", err)
	}
	return config, nil
}

func (c TLSConfig) addRoots(config *tls.Config) error {
	if c.RootCAFile == "" {
		return nil
	}
	data, err := os.ReadFile(c.RootCAFile)
	if err != nil {
		return fmt.Errorf("field RootCAFile: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(data) {
		return fmt.Errorf("field RootCAFile: no PEM certificate in %s", c.RootCAFile)
	}
	return nil
}

func (c TLSConfig) addCertificate(config *tls.Config) error {
	if c.CertFile == "" && c.KeyFile == "" {
		return nil
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, localError{fmt.Errorf("client certificate: %w", err)}
		}
		return &cert, nil
	}
	if _, err := config.GetClientCertificate(nil); err != nil {
		return fmt.Errorf("fields CertFile, KeyFile: %w", err)
	}
	return nil
}

func (c TLSConfig) addPins(config *tls.Config) error {
	if len(c.Pins) == 0 {
		return nil
	}
	pins := map[[sha256.Size]byte]bool{}
	for _, pin := range c.Pins {
		sum, err := parsePin(pin)
		if err != nil {
			return fmt.Errorf("field Pins: %w", err)
		}
		pins[sum] = true
	}
	// Not VerifyPeerCertificate: it is skipped for resumed sessions.
	config.VerifyConnection = func(state tls.ConnectionState) error { return verifyPin(pins, state) }
	return nil
}

func verifyPin(pins map[[sha256.Size]byte]bool, state tls.ConnectionState) error {
	for _, chain := range state.VerifiedChains {
		for _, cert := range chain {
			if pins[sha256.Sum256(cert.RawSubjectPublicKeyInfo)] {
				return nil
			}
		}
	}
	return ErrPin
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
