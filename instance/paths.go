package instance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/process"
	"github.com/osqvisor/osqvisor/stats"
)

// MaxIDLength is the longest id of an instance, in bytes.
const MaxIDLength = 64

// windowsDevices may not be the name of a directory on Windows, with or without
// an extension. They are refused everywhere, so that a host's ids are portable.
const windowsDevices = " con prn aux nul com0 com1 com2 com3 com4 com5 com6 com7 com8 com9" +
	" lpt0 lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9 "

// CheckID checks whether id can name an instance: 1 to 64 letters, digits, dots,
// underscores and hyphens, beginning and ending with a letter or a digit.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("the id is empty; name the instance, such as \"vendor\"")
	case len(id) > MaxIDLength:
		return fmt.Errorf("the id is %d bytes long; at most %d are allowed", len(id), MaxIDLength)
	}
	for _, r := range id {
		if !idRune(r) {
			return fmt.Errorf("the id %q contains %q; use letters, digits, dots, underscores and hyphens", id, r)
		}
	}
	if !alnum(rune(id[0])) || !alnum(rune(id[len(id)-1])) {
		return fmt.Errorf("the id %q must begin and end with a letter or a digit", id)
	}
	base, _, _ := strings.Cut(strings.ToLower(id), ".")
	if strings.Contains(windowsDevices, " "+base+" ") {
		return fmt.Errorf("the id %q is the name of a device on Windows; choose another", id)
	}
	return nil
}

func idRune(r rune) bool { return alnum(r) || r == '.' || r == '_' || r == '-' }

func alnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// lockName is the file whose lock keeps others out of an instance's directory.
const lockName = "lock"

// paths is where the files of an instance are.
type paths struct {
	dir          string // the instance's own, 0700
	database     string
	pidfile      string
	logs         string // osqueryd's logger_path, for plugins that write files
	lease        string
	lock         string
	socketNote   string // holds the name of a socket that lies elsewhere; see shortSocket
	socket       string // empty when it would be too long, so that it lies elsewhere
	socketDir    string // the directory of the socket; empty for a named pipe
	ownSocketDir bool   // it is outside of dir, and the SDK's own: it goes with the run
}

func (o *options) layout() paths {
	dir := o.dir
	if dir == "" {
		dir = filepath.Join(o.root, o.id)
	}
	p := paths{
		dir:      dir,
		database: filepath.Join(dir, "osquery.db"),
		pidfile:  filepath.Join(dir, "osqueryd.pid"),
		logs:     filepath.Join(dir, "logs"),
		lease:    filepath.Join(dir, "lease.json"),
		lock:     filepath.Join(dir, lockName),

		socketNote: filepath.Join(dir, "socket"),
	}
	p.socket, p.socketDir = o.socketPath(dir)
	p.ownSocketDir = p.socket == ""
	return p
}

// checkPaths holds what can be known of the directories before the first run. It
// makes the instance's directory, since nothing else shows whether it can be made.
func (o *options) checkPaths() []error {
	option, base := "WithRoot", o.root
	switch {
	case o.dir != "":
		option, base = "WithDirectory", o.dir
	case o.root == "" && o.settings.NoRoot:
		return nil
	case o.root == "":
		return []error{optionErrorf("WithRoot", "the directory is empty; name one for the instance to keep its data in")}
	}
	if !filepath.IsAbs(base) {
		return []error{optionErrorf(option, "%q is relative; use an absolute path", base)}
	}
	if o.dir == "" {
		if err := o.makeWritableDir(o.root, false); err != nil {
			return []error{&OptionError{Option: option, Err: err}}
		}
	}
	if CheckID(o.id) != nil {
		return nil // reported already, and no name for a directory
	}
	var errs []error
	p := o.layout()
	if err := o.makeWritableDir(p.dir, true); err != nil {
		errs = append(errs, &OptionError{Option: option, Err: err})
	}
	if err := o.checkSocket(p); err != nil {
		errs = append(errs, &OptionError{Option: "WithSocket", Err: err})
	}
	return errs
}

// CheckRoot checks whether dir can be a root: an absolute path to a writable directory of this
// user, in which others cannot replace files (it is sticky if they can write to it). A directory
// that does not exist is made, 0700, and removed again.
func CheckRoot(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("%q is relative; use an absolute path", dir)
	}
	var o options
	defer o.unmake()
	if err := o.makeWritableDir(dir, false); err != nil {
		return err
	}
	sweep(dir)
	return nil
}

// makeDir makes dir, 0700, or checks that it is a directory of ours. Private ones are
// closed to others; in the rest others must not be able to replace what is ours.
func makeDir(dir string, private bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%s cannot be made: %w", dir, reason(err))
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("%s: %w", dir, reason(err))
	}
	if private && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link; use the directory itself", dir)
	}
	if info, err = os.Stat(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, reason(err))
	}
	if err := checkDirOwner(dir, info); err != nil {
		return err
	}
	switch {
	case !private:
		return checkShared(dir)
	case info.Mode().Perm()&0o077 != 0:
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("%s is open to others and cannot be closed: %w", dir, reason(err))
		}
	}
	return nil
}

// makeWritableDir is makeDir for what is checked before the first run. At a start,
// the first file that is made in the directory shows the same. What it made goes with unmake.
func (o *options) makeWritableDir(dir string, private bool) error {
	o.made = append(missing(dir), o.made...)
	if err := makeDir(dir, private); err != nil {
		return err
	}
	return checkWritable(dir)
}

// missing lists what of the path is not there, the longest first.
func missing(dir string) (paths []string) {
	for {
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return paths
		}
		paths = append(paths, dir)
		dir = filepath.Dir(dir)
	}
}

// unmake removes the directories that were made for a check, as far as they are empty.
func (o *options) unmake() {
	for _, dir := range o.made {
		_ = os.Remove(dir) // it was not made, or somebody uses it by now
	}
	o.made = nil
}

// checkWritable makes a file, because modes alone do not show it: read-only mounts,
// quotas and access lists count too.
func checkWritable(dir string) error {
	f, err := os.CreateTemp(dir, ".osqvisor-*")
	if err != nil {
		return fmt.Errorf("%s cannot be written to: %w", dir, reason(err))
	}
	err = os.Remove(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(f.Close(), err)
}

// leftoverAge is how old a temporary file is whose maker, killed, will not remove it any more.
const leftoverAge = time.Minute

// sweep removes from dir the temporary files of killed hosts: of the check whether it can be written to, and of files that
// are replaced as a whole.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // whoever needs the directory reports that
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !isTemporary(e.Name()) {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > leftoverAge {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next start tries again
		}
	}
}

// isTemporary knows the names that os.CreateTemp made for us: .osqvisor-1, .node_key.1, .config.json.1, lease.json.1.tmp.
func isTemporary(name string) bool {
	base, lease := strings.CutSuffix(name, ".tmp")
	stem := strings.TrimRight(base, "0123456789")
	switch {
	case stem == base:
		return false
	case lease:
		return stem == "lease.json."
	}
	return stem == ".osqvisor-" || len(stem) > 2 && stem[0] == '.' && stem[len(stem)-1] == '.'
}

// ErrInUse reports that a directory is used by an instance, of this host process or another.
var ErrInUse = errors.New("the directory is in use")

// IsDirectory reports whether an instance was run in dir, as far as its lock file shows.
func IsDirectory(dir string) bool {
	info, err := os.Lstat(filepath.Join(dir, lockName))
	return err == nil && info.Mode().IsRegular()
}

// Purge removes the directory of an instance that no longer exists, with its database, node key
// and queued lines; a leftover osqueryd is killed first. It fails with ErrInUse while an instance of
// any host process uses it, with fs.ErrNotExist when it is not there, and for a directory in
// which no instance was ever run.
func Purge(ctx context.Context, dir string) error {
	err := guard.Call(ctx, 0, func() error { return purge(ctx, dir) }, nil)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s is not removed: %w", dir, err)
	}
	return nil
}

func purge(ctx context.Context, dir string) error {
	if !filepath.IsAbs(dir) {
		return errors.New("it is relative; give an absolute path")
	}
	p := paths{dir: dir, lock: filepath.Join(dir, lockName), lease: filepath.Join(dir, "lease.json")}
	if info, err := os.Lstat(dir); err != nil {
		return err
	} else if !info.IsDir() {
		return errors.New("it is no directory")
	}
	if !IsDirectory(dir) {
		return errors.New("it is no instance's directory: it has no lock file")
	}
	lock := flock.New(p.lock)
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return err
	case !locked:
		return ErrInUse
	}
	defer func() { _ = lock.Unlock() }() // of a file that is gone by then
	if _, err := process.Reclaim(ctx, p.lease, process.ReclaimOptions{Wait: purgeWait}); err != nil {
		return fmt.Errorf("%w: %w", ErrInUse, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != lockName {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	if os.Remove(p.lock) != nil { // Windows keeps what is open
		_ = lock.Unlock()
		_ = os.Remove(p.lock)
	}
	return os.Remove(dir) // which fails when somebody makes it anew
}

// purgeWait bounds the wait for a leftover to end that was killed.
const purgeWait = 5 * time.Second

// reason is the cause in a path error, whose path is in our text already.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// dirLock holds the instance's directory: the lock that keeps other hosts and other instances
// out, and the open queues. A run and a delivery between runs may share it; the last of them
// releases it, so that nothing stays open between runs.
type dirLock struct {
	disk  guard.Lane // for what changes the directory, in order; the rest belongs to it
	users int
	lock  *flock.Flock
}

// errDiskHangs is why nobody waits for a file system any more.
var errDiskHangs = errors.New("the file system does not answer")

// onDisk does what may hang with the file system of the directory, after what was begun
// there before. It waits as long as Timeouts.Disk, and when ctx ends first, a
// fifth of Timeouts.Stop for what has begun. Should that succeed later, it is undone.
func (in *Instance) onDisk(ctx context.Context, what string, f func() error, undo func()) error {
	bounded, cancel := context.WithTimeoutCause(ctx, in.live.Load().timeouts.Disk, errDiskHangs)
	defer cancel()
	err := in.dirLock.disk.Try(bounded, in.live.Load().timeouts.giveUp(), func() error {
		in.o.diskHook(what)
		return f()
	}, undo)
	switch {
	case err == nil || !errors.Is(err, context.Cause(bounded)):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%w: %s: %w", errDirectory, what, err)
}

// enter makes the directory the instance's own until leave. It does not wait for
// somebody else who has it: that is an error.
func (in *Instance) enter(ctx context.Context) error {
	return in.onDisk(ctx, "opening it", func() error {
		if in.dirLock.users == 0 {
			if err := in.openDirectory(ctx); err != nil {
				return fmt.Errorf("%w: %w", errDirectory, err)
			}
		}
		in.dirLock.users++
		return nil
	}, in.leave)
}

func (in *Instance) openDirectory(ctx context.Context) error {
	p := in.place()
	if err := makeDir(p.dir, true); err != nil {
		return err
	}
	lock := flock.New(p.lock, flock.SetPermissions(0o600))
	switch locked, err := lock.TryLock(); {
	case err != nil:
		return fmt.Errorf("%s: %w", p.lock, err)
	case !locked:
		return fmt.Errorf("%s is in use by another host process, or by another instance of this one", p.dir)
	}
	sweep(p.dir)
	sweep(filepath.Join(p.dir, "queue"))
	in.adopt(ctx)
	if err := in.ext.OpenQueues(); err != nil {
		return errors.Join(err, lock.Unlock())
	}
	in.dirLock.lock = lock
	return nil
}

// adopt brings along the queues of the directories that the instance had before. What stays behind was announced, and is
// tried again with the next use.
func (in *Instance) adopt(ctx context.Context) {
	var left []string
	for _, dir := range in.formerDirs() {
		if err := in.adoptFrom(ctx, dir); err != nil {
			in.log.Warn("lines are left in the instance's former directory", "directory", dir, "err", err)
			left = append(left, dir)
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.former = left
}

func (in *Instance) formerDirs() []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.former)
}

func (in *Instance) adoptFrom(ctx context.Context, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock := flock.New(filepath.Join(dir, lockName), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err == nil && !locked {
		err = errors.New("it is in use by another instance or host process")
	}
	if err != nil {
		in.emit(stats.QueueLeft{Head: in.head(), Dir: dir, Err: err})
		return err
	}
	return errors.Join(in.ext.AdoptQueues(ctx, dir), lock.Unlock())
}

// leave ends one use. It is for the lane.
func (in *Instance) leave() {
	if in.dirLock.users--; in.dirLock.users > 0 {
		return
	}
	if err := errors.Join(in.ext.CloseQueues(), in.dirLock.lock.Unlock()); err != nil {
		in.log.Warn("the instance's directory could not be released cleanly", "err", err)
	}
	in.dirLock.lock = nil
}
