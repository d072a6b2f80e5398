package plugin

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/osqvisor/osqvisor/internal/delivery"
)

// maxNodeKey bounds the file; real keys have some 30 to 600 bytes.
const maxNodeKey = 64 << 10

// fileKeyStore keeps the key in a file of the instance's directory.
type fileKeyStore struct{ path string }

func newFileKeyStore(dir string) fileKeyStore {
	return fileKeyStore{path: filepath.Join(dir, "node_key")}
}

func (f fileKeyStore) Load(context.Context) (string, error) {
	b, err := delivery.ReadFileBounded(f.path, maxNodeKey)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(b)), err
}

func (f fileKeyStore) Save(_ context.Context, key string) error {
	return delivery.WriteFileAtomic(f.path, []byte(key+"\n"))
}
