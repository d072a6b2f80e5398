package delivery

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
)

// maxStudied bounds the result lines that are parsed for their decorations, in bytes.
const maxStudied = 64 << 10

// StatusForm makes of a status line, as osqueryd hands it to a logger plugin, what
// osqueryd's own TLS logger sends, which is what servers read. It happens on the way out:
// queues keep osqueryd's bytes.
type StatusForm struct {
	mu          sync.Mutex
	decorations map[string]string // of the newest result
}

// tlsStatusLine is the outer form.
type tlsStatusLine struct {
	HostIdentifier string            `json:"hostIdentifier"`
	CalendarTime   string            `json:"calendarTime"`
	UnixTime       statusNumber      `json:"unixTime"`
	Severity       statusNumber      `json:"severity"`
	Filename       string            `json:"filename"`
	Line           statusNumber      `json:"line"`
	Message        string            `json:"message"`
	Version        string            `json:"version"`
	Decorations    map[string]string `json:"decorations,omitempty"`
}

// statusNumber is a number that osqueryd wrote as a string until 5.10.
type statusNumber struct {
	json.Number
	quoted bool
}

func (n statusNumber) MarshalJSON() ([]byte, error) {
	if n.quoted {
		return json.Marshal(n.String())
	}
	return json.Marshal(n.Number)
}

// quotesNumbers reports whether an osqueryd of this version writes numbers as strings.
func quotesNumbers(version string) bool {
	var major, minor int
	if n, _ := fmt.Sscanf(version, "%d.%d", &major, &minor); n < 2 {
		return false
	}
	return major < 5 || major == 5 && minor < 10
}

// Shape returns the lines in the outer form, one for one. What is no status line stays.
func (f *StatusForm) Shape(node extension.Node, lines [][]byte) [][]byte {
	f.mu.Lock()
	decorations := f.decorations // replaced as a whole, never changed
	f.mu.Unlock()
	out := make([][]byte, len(lines))
	for i, line := range lines {
		out[i] = line
		s, ok := parseStatus(line, quotesNumbers(node.OsqueryVersion))
		if !ok {
			continue
		}
		s.Version, s.Decorations = node.OsqueryVersion, decorations
		if s.HostIdentifier == "" {
			s.HostIdentifier = node.HostIdentifier
		}
		if text, err := marshalLine(s); err == nil {
			out[i] = text
		}
	}
	return out
}

// parseStatus reads the inner form: severity, file, line, message, host, calendar and Unix time.
func parseStatus(line []byte, quoted bool) (tlsStatusLine, bool) {
	var s tlsStatusLine
	var f map[string]json.RawMessage
	if json.Unmarshal(line, &f) != nil {
		return s, false
	}
	for _, name := range []string{"s", "f", "i", "m"} {
		if f[name] == nil {
			return s, false
		}
	}
	texts := map[string]*string{"f": &s.Filename, "m": &s.Message, "h": &s.HostIdentifier, "c": &s.CalendarTime}
	for name, to := range texts {
		if raw := f[name]; raw != nil && json.Unmarshal(raw, to) != nil {
			return s, false
		}
	}
	for name, to := range map[string]*statusNumber{"s": &s.Severity, "i": &s.Line, "u": &s.UnixTime} {
		to.quoted = quoted
		if raw := f[name]; raw != nil && json.Unmarshal(raw, &to.Number) != nil {
			return s, false
		}
	}
	return s, true
}

// Learn takes the decorations that results bear: osqueryd does not hand them over with
// status lines. It looks at the newest line alone.
func (f *StatusForm) Learn(_ extension.Node, lines [][]byte) [][]byte {
	if len(lines) == 0 || len(lines[len(lines)-1]) > maxStudied {
		return lines
	}
	var result struct {
		Name        string            `json:"name"`
		Host        string            `json:"hostIdentifier"`
		Decorations map[string]string `json:"decorations"`
	}
	if json.Unmarshal(lines[len(lines)-1], &result) != nil || result.Name == "" || result.Host == "" {
		return lines
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decorations = result.Decorations
	return lines
}

// marshalLine writes v without a newline and without escapes that JSON does not need.
func marshalLine(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimSuffix(out.Bytes(), []byte{'\n'}), err
}

func sizeOf(lines [][]byte) (n int) {
	for _, line := range lines {
		n += len(line)
	}
	return n
}

// sign makes the detached signature of a batch: over its bytes for Ed25519, over
// their SHA-256 for ECDSA (ASN.1) and RSA (PKCS #1 v1.5).
func sign(signer crypto.Signer, b extension.Batch) ([]byte, error) {
	message := b.SignedBytes()
	if _, ok := signer.Public().(ed25519.PublicKey); ok {
		return signer.Sign(rand.Reader, message, crypto.Hash(0))
	}
	digest := sha256.Sum256(message)
	return signer.Sign(rand.Reader, digest[:], crypto.SHA256)
}

// CheckKey reports whether signer's key is of a kind that can be verified.
func CheckKey(signer crypto.Signer) error {
	return guard.Contain("the signer", func() error {
		switch key := signer.Public().(type) {
		case ed25519.PublicKey, *ecdsa.PublicKey, *rsa.PublicKey:
			return nil
		default:
			return fmt.Errorf("a key of type %T is not supported; use Ed25519, ECDSA or RSA", key)
		}
	})
}
