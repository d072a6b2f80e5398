package extension

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// signedPrefix begins what is signed, so that a signature is good for nothing else.
const signedPrefix = "osqvisor batch v1\n"

// ErrSignature says that a batch is not what its signature was made for.
var ErrSignature = errors.New("the batch does not match its signature")

// SignedBytes gives what a batch's signature is over: a fixed prefix, the id, the
// queue, the numbers of the first and last line, and every line with its length,
// so that no two batches share it. Lengths and numbers are 8 bytes, big-endian.
func (b Batch) SignedBytes() []byte {
	out := make([]byte, 0, len(signedPrefix)+len(b.ID)+len(b.Queue)+8*(5+len(b.Lines))+b.Bytes)
	out = append(out, signedPrefix...)
	out = appendSized(out, []byte(b.ID))
	out = appendSized(out, []byte(b.Queue))
	out = binary.BigEndian.AppendUint64(out, b.First)
	out = binary.BigEndian.AppendUint64(out, b.Last)
	out = binary.BigEndian.AppendUint64(out, uint64(len(b.Lines)))
	for _, line := range b.Lines {
		out = appendSized(out, line)
	}
	return out
}

func appendSized(out, b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(out, uint64(len(b))), b...)
}

// Verify checks the signature of a batch against the public half of the key that
// [WithSigner] was given: an ed25519.PublicKey, *ecdsa.PublicKey or
// *rsa.PublicKey. The error is ErrSignature when it does not match. Try is not
// signed. It is safe for concurrent use.
func Verify(public crypto.PublicKey, b Batch) error {
	message := b.SignedBytes()
	digest := sha256.Sum256(message)
	good := false
	switch key := public.(type) {
	case ed25519.PublicKey:
		good = len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, b.Signature)
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(key, digest[:], b.Signature)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], b.Signature) == nil
	default:
		return fmt.Errorf("verify batch %s: a key of type %T is not supported; use Ed25519, ECDSA or RSA", b.ID, public)
	}
	if !good {
		return fmt.Errorf("verify batch %s: %w", b.ID, ErrSignature)
	}
	return nil
}
