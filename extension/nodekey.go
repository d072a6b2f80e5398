package extension

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
)

// NodeKeyStore keeps an instance's node key. Calls come one at a time and must
// return when their context ends. The key is a secret.
type NodeKeyStore interface {
	// Load gives the key, and "" with a nil error when there is none.
	Load(ctx context.Context) (string, error)
	// Save keeps the key for the next start.
	Save(ctx context.Context, key string) error
}

// maxNodeKey bounds the file; real keys have some 30 to 600 bytes.
const maxNodeKey = 64 << 10

// fileKeyStore keeps the key in a file of the instance's directory.
type fileKeyStore struct{ path string }

func newFileKeyStore(dir string) fileKeyStore {
	return fileKeyStore{path: filepath.Join(dir, "node_key")}
}

func (f fileKeyStore) Load(context.Context) (string, error) {
	b, err := readFileBounded(f.path, maxNodeKey)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

func (f fileKeyStore) Save(_ context.Context, key string) error {
	return writeFileAtomic(f.path, []byte(key+"\n"))
}
