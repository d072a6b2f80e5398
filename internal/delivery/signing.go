package delivery

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/guard"
)

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

// checkKey tells whether signer's key is of a kind that can be verified.
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
