package spool

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// memFS is a disk in memory, for fuzzing: a thousand times as many runs.
type memFS struct {
	mu    sync.Mutex
	files map[string]*memFile
}

type memFile struct {
	mu sync.Mutex
	b  []byte
}

func newMemFS(files map[string][]byte) *memFS {
	m := &memFS{files: map[string]*memFile{}}
	for n, b := range files {
		m.files[n] = &memFile{b: append([]byte(nil), b...)}
	}
	return m
}

func (m *memFS) MakeDir(string) error { return nil }
func (m *memFS) SyncDir(string) error { return nil }

func (m *memFS) List(string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for n := range m.files {
		names = append(names, n)
	}
	return names, nil
}

func (m *memFS) Open(name string, flag int) (file, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.files[filepath.Base(name)]
	switch {
	case ok && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case !ok && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case !ok:
		f = &memFile{}
		m.files[filepath.Base(name)] = f
	}
	return f, nil
}

func (m *memFS) OpenLocked(name string) (file, error) { return m.Open(name, os.O_CREATE) }

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.files, filepath.Base(name))
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end := off + int64(len(p)); end > int64(len(f.b)) {
		f.b = append(f.b, make([]byte, end-int64(len(f.b)))...)
	}
	return copy(f.b[off:], p), nil
}

func (f *memFile) Truncate(n int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.b = f.b[:n]
	return nil
}

func (f *memFile) Size() (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(len(f.b)), nil
}

func (f *memFile) Sync() error  { return nil }
func (f *memFile) Close() error { return nil }
