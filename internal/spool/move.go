package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Move brings the queue in the directory from to the directory to, whose name is then flushed with those of parents
// directories above. Nobody may have either open. If to is not there yet and on the same file system, the files go as they
// are, with epoch, numbers and pin. Otherwise the lines that are not acknowledged are appended to what is there, with o; then
// a batch that was under way comes again under another id. What an error leaves behind stays in from, and the same call may
// be made again; a line whose move was interrupted is then in both. A from that is not there is no error.
func Move(ctx context.Context, from, to string, o Options) error {
	if _, err := os.Lstat(from); isNotExist(err) {
		return nil
	}
	if _, err := os.Lstat(to); isNotExist(err) && renameQueue(from, to, max(1, o.Parents)) == nil {
		return nil
	}
	if err := copyQueue(ctx, from, to, o); err != nil {
		return fmt.Errorf("move spool %s to %s: %w", from, to, err)
	}
	return os.RemoveAll(from)
}

func renameQueue(from, to string, parents int) error {
	fsys := osFS{}
	if err := fsys.MakeDir(filepath.Dir(to)); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	for dir := to; parents > 0; parents-- {
		dir = filepath.Dir(dir)
		_ = fsys.SyncDir(dir) // at worst a power cut undoes the move, or loses what SyncNever would
	}
	_ = fsys.SyncDir(filepath.Dir(from))
	return nil
}

func copyQueue(ctx context.Context, from, to string, o Options) (err error) {
	source, _, err := Open(from, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, _, err := Open(to, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	for ctx.Err() == nil {
		b, err := source.Read(0, 0, chunkBytes)
		if err != nil || b.Last == 0 {
			return err
		}
		for _, line := range b.Lines {
			if _, err := target.Append(line); err != nil && !errors.Is(err, ErrNotSynced) {
				return err
			}
		}
		if err := target.Sync(); err != nil {
			return err
		}
		if err := source.Ack(b.Last); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
