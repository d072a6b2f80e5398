package spool

import (
	"io"
	"os"
	"path/filepath"
)

// file is what the queue needs of an open file.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Sync flushes the content, and as much of the metadata as is needed to read it again.
	Sync() error
	Size() (int64, error)
}

// fileSystem is the seam where tests let the disk fail.
type fileSystem interface {
	MakeDir(dir string) error
	List(dir string) ([]string, error)
	Open(name string, flag int) (file, error)
	// OpenLocked opens or creates a file that nobody else can open this way until it is closed, and returns ErrLocked if
	// somebody has.
	OpenLocked(name string) (file, error)
	Remove(name string) error
	// SyncDir makes created and removed names durable.
	SyncDir(dir string) error
}

const (
	dirMode  = 0o700
	fileMode = 0o600
)

type osFS struct{}

// MakeDir also narrows a directory that others could read.
func (osFS) MakeDir(dir string) error {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	return os.Chmod(dir, dirMode)
}

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (osFS) Open(name string, flag int) (file, error) {
	f, err := os.OpenFile(filepath.Clean(name), flag, fileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFS) Remove(name string) error { return os.Remove(name) }

type osFile struct{ *os.File }

func (f osFile) Sync() error { return syncData(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
