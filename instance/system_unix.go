//go:build unix

package instance

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkBinaryMode holds what osqueryd demands of its own binary before its
// watchdog starts a worker, so that the reason is known before the start.
func checkBinaryMode(path string, info fs.FileInfo) error {
	mode := info.Mode()
	if mode.Perm()&0o111 == 0 {
		return fmt.Errorf("%s is not executable; chmod +x it", path)
	}
	if mode.Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be written by everyone; chmod o-w it", path)
	}
	if uid, ok := ownerOf(info); ok && uid != 0 && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d; it must belong to root or to the user that runs it (%d)",
			path, uid, os.Geteuid())
	}
	if err := checkSticky(path); err != nil {
		return err
	}
	return checkReplaceable(path)
}

// checkSticky leaves links alone: where they lie is nothing to osqueryd, which looks at
// where it is itself.
func checkSticky(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink == 0 && dir.Mode()&fs.ModeSticky != 0 {
		return fmt.Errorf("%s lies in a sticky directory, as /tmp is, which osqueryd refuses; move it", path)
	}
	return nil
}

// fileIdentity changes with the file, its content, its mode and its owner.
func fileIdentity(info fs.FileInfo) string {
	id := fmt.Sprintf("%d %d %v", info.Size(), info.ModTime().UnixNano(), info.Mode())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		id += fmt.Sprintf(" %d %d %d %d", st.Dev, st.Ino, st.Uid, st.Gid)
	}
	return id
}

// freeRoom is -1 when the system does not report it.
func freeRoom(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return -1
	}
	if st.Files > 0 && st.Ffree == 0 {
		return 0 // no file can be made
	}
	free := float64(st.Bavail) * float64(st.Bsize) // whose types differ between systems
	return int64(min(free, math.MaxInt64/2))
}

func ownerOf(info fs.FileInfo) (uid int, ok bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}

// outOfResources reports whether an error is of a descriptor, a process, memory or disk
// that could not be had. EAGAIN is not among them: a socket answers so whose owner is slow.
func outOfResources(err error) bool {
	for _, errno := range []error{
		unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOSPC, unix.EDQUOT, unix.ENOBUFS,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// lockedByAnother reports whether another process has a lock on a file that exists. RocksDB
// locks by fcntl, which names the holder, and takes nothing from the one who has it.
func lockedByAnother(path string) bool {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	return unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock) == nil && lock.Type != unix.F_UNLCK
}

// maxSocketPath leaves room, within the 103 bytes that macOS allows a socket's
// path, for the number that osqueryd appends for an extension's own socket.
const maxSocketPath = 97

// socketPath returns the path of osqueryd's socket and the directory it is in. By default that is the instance's own
// directory; if that makes the path too long, it is empty, and shortSocket chooses one.
func (o *options) socketPath(dir string) (socket, socketDir string) {
	if o.socket != "" {
		return o.socket, filepath.Dir(o.socket)
	}
	sockets := filepath.Join(dir, "run")
	if socket = filepath.Join(sockets, "osqueryd.sock"); len(socket) <= maxSocketPath {
		return socket, sockets
	}
	return "", ""
}

// shortSocketPrefix begins the name of a directory for a socket of which the path would be too long elsewhere.
const shortSocketPrefix = "osqvisor-"

// shortSocket chooses the socket's place outside of the instance's directory: the one it had before, so that the next host
// process finds what a killed one left, or one of a name that nobody can guess, so that nobody can take it beforehand.
func (p *paths) shortSocket() error {
	if !p.ownSocketDir {
		return nil
	}
	parents, err := shortSocketParents()
	if len(parents) == 0 {
		return err
	}
	before := p.notedSocketDir()
	if before == "" || !slices.Contains(parents, filepath.Dir(before)) {
		p.setShortSocket(newShortSocketDir(parents[0]))
		return nil
	}
	p.setShortSocket(before)
	return nil
}

func newShortSocketDir(parent string) string {
	return filepath.Join(parent, shortSocketPrefix+strings.ToLower(rand.Text()[:16]))
}

func (p *paths) setShortSocket(dir string) { p.socket, p.socketDir = filepath.Join(dir, "s"), dir }

// notedSocketDir returns the directory that an earlier run noted, if it can be one.
func (p *paths) notedSocketDir() string {
	text, err := os.ReadFile(p.socketNote)
	dir := string(text)
	if err != nil || !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || !strings.HasPrefix(filepath.Base(dir), shortSocketPrefix) {
		return ""
	}
	return dir
}

// shortSocketParents returns the directories that can hold the short socket, the best first, and why each of the others cannot.
func shortSocketParents() ([]string, error) {
	var parents []string
	var errs []error
	for _, dir := range []string{os.TempDir(), os.Getenv("XDG_RUNTIME_DIR"), "/tmp"} {
		if dir == "" || slices.Contains(parents, filepath.Clean(dir)) {
			continue
		}
		if err := checkShortSocketParent(dir); err != nil {
			errs = append(errs, err)
			continue
		}
		parents = append(parents, filepath.Clean(dir))
	}
	return parents, errors.Join(errs...)
}

func checkShortSocketParent(dir string) error {
	socket := filepath.Join(newShortSocketDir(dir), "s")
	switch {
	case !filepath.IsAbs(dir):
		return fmt.Errorf("%q is relative", dir)
	case len(socket) > maxSocketPath:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed: set a short one, or a shorter TMPDIR",
			socket, len(socket), maxSocketPath)
	}
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		err = syscall.ENOTDIR
	}
	if err == nil {
		err = unix.Access(dir, unix.W_OK|unix.X_OK)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, reason(err))
	}
	return checkShared(dir)
}

func (o *options) checkSocket(p paths) error {
	switch {
	case p.ownSocketDir:
		return p.shortSocket()
	case !filepath.IsAbs(p.socket):
		return fmt.Errorf("%q is relative; use an absolute path", p.socket)
	case len(p.socket) > maxSocketPath:
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed, or leave the option out for a short one",
			p.socket, len(p.socket), maxSocketPath)
	}
	if o.socket == "" {
		return nil // prepare makes its directory
	}
	info, err := os.Stat(p.socketDir)
	if err != nil {
		return fmt.Errorf("its directory %s: %w", p.socketDir, reason(err))
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", p.socketDir)
	}
	if err := checkDirOwner(p.socketDir, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("its directory %s is open to other users, who could read the node key by the socket; chmod 700 it", p.socketDir)
	}
	return nil
}

// shortSocketTries bounds how many unguessable names are tried; one is enough but for a full disk and the like.
const shortSocketTries = 3

// makeSocketDir makes the directory of the socket, which nobody else may enter. A short one that somebody else has by now
// is given up for another.
func (p *paths) makeSocketDir() error {
	if !p.ownSocketDir {
		return makeDir(p.socketDir, true)
	}
	var err error
	for range shortSocketTries {
		if err = p.makeShortSocketDir(); err == nil {
			return nil
		}
		parents, none := shortSocketParents()
		if len(parents) == 0 {
			return none
		}
		p.setShortSocket(newShortSocketDir(parents[0]))
	}
	return err
}

// makeShortSocketDir notes the name first, so that the directory is found if this host is killed.
func (p *paths) makeShortSocketDir() error {
	if before := p.notedSocketDir(); before != p.socketDir {
		removeShortSocketDir(before)
		if err := os.WriteFile(p.socketNote, []byte(p.socketDir), 0o600); err != nil {
			return err
		}
	}
	err := os.Mkdir(p.socketDir, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(p.socketDir)
	if err != nil {
		return err
	}
	if err := checkDirOwner(p.socketDir, info); err != nil {
		return err
	}
	return os.Chmod(p.socketDir, 0o700)
}

// removeShortSocketDir removes what an earlier run left, if it is ours.
func removeShortSocketDir(dir string) {
	info, err := os.Lstat(dir)
	if err != nil || checkDirOwner(dir, info) != nil {
		return
	}
	p := paths{ownSocketDir: true}
	p.setShortSocket(dir)
	removeSockets(p)
}

func checkDirOwner(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if uid, ok := ownerOf(info); ok && uid != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to the user that runs this (%d)", dir, uid, os.Geteuid())
	}
	return nil
}

// removeSockets removes the manager's socket and those of extensions. osqueryd
// does so too when it starts, but not when it is killed.
func removeSockets(p paths) {
	if info, err := os.Lstat(p.socketDir); err != nil || checkDirOwner(p.socketDir, info) != nil {
		return
	}
	stale, _ := filepath.Glob(escapeGlob(p.socket) + ".*")
	for _, path := range append(stale, p.socket) {
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			_ = os.Remove(path) // a leftover that cannot be removed is osqueryd's to report
		}
	}
	if p.ownSocketDir {
		_ = os.Remove(p.socketDir) // empty by now
	}
}

func escapeGlob(path string) string {
	var out []byte
	for i := range len(path) {
		if c := path[i]; c == '*' || c == '?' || c == '[' || c == '\\' {
			out = append(out, '\\')
		}
		out = append(out, path[i])
	}
	return string(out)
}

// writers returns how somebody other than root and this user can change a file or a directory; it is empty when nobody can.
// In a sticky directory, each can replace only what is his own.
func writers(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode()
	switch {
	case !ok:
		return ""
	case !ours(st):
		return fmt.Sprintf("belongs to user %d; it must belong to root or to the user that runs this (%d)", st.Uid, os.Geteuid())
	case mode&fs.ModeSymlink != 0 || mode.IsDir() && mode&fs.ModeSticky != 0:
		return ""
	case mode.Perm()&0o002 != 0:
		return "can be written by every user; chmod o-w it"
	case mode.Perm()&0o020 != 0 && !privateGroup(st):
		return fmt.Sprintf("can be written by group %d; chmod g-w it", st.Gid)
	}
	return ""
}

func ours(st *syscall.Stat_t) bool { return st.Uid == 0 || int(st.Uid) == os.Geteuid() }

// privateGroup reports that a group has no members but the owner: root's own and those that a system makes for each user have
// their owner's number. macOS lets its group of administrators, who may become root, write to /Applications.
func privateGroup(st *syscall.Stat_t) bool {
	const macAdmin = 80
	return st.Gid == st.Uid || st.Gid == 0 || runtime.GOOS == "darwin" && st.Gid == macAdmin
}

// checkWriters refuses what others can change, unless they cannot reach it. The path holds no links.
func checkWriters(path string, info fs.FileInfo) error {
	who := writers(info)
	if who == "" {
		return nil
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if above, err := os.Lstat(dir); err == nil && writers(above) == "" && above.Mode().Perm()&0o011 == 0 {
			return nil
		}
		if dir == filepath.Dir(dir) {
			return fmt.Errorf("%s %s", path, who)
		}
	}
}

// maxLinks is how many links a path may lead through, as in the kernel.
const maxLinks = 40

// checkReplaceable refuses a path at which others can put another file: by a directory on the way, by a link's, or in place.
func checkReplaceable(path string) error {
	w := walk{at: "/", rest: strings.Split(path, "/")}
	info, err := os.Lstat(w.at)
	if err == nil {
		err = checkWriters(w.at, info)
	}
	for err == nil && len(w.rest) > 0 {
		err = w.step()
	}
	if err != nil {
		return fmt.Errorf("%s can be replaced by others: %w", path, err)
	}
	return nil
}

// walk follows a path through its links.
type walk struct {
	at    string // without links
	rest  []string
	links int
}

func (w *walk) step() error {
	next := filepath.Join(w.at, w.rest[0])
	w.rest = w.rest[1:]
	info, err := os.Lstat(next)
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return w.follow(next, info)
	}
	w.at = next
	return checkWriters(next, info)
}

// follow looks at who made a link only where anybody could have: elsewhere it is as safe as its directory.
func (w *walk) follow(link string, info fs.FileInfo) error {
	dir, err := os.Lstat(w.at)
	if err == nil && dir.Mode()&fs.ModeSticky != 0 {
		err = checkWriters(link, info)
	}
	target, readErr := os.Readlink(link)
	if err := errors.Join(err, readErr); err != nil {
		return err
	}
	if w.links++; w.links > maxLinks {
		return syscall.ELOOP
	}
	w.rest = append(strings.Split(target, "/"), w.rest...)
	if filepath.IsAbs(target) {
		w.at = "/"
	}
	return nil
}

// checkShared refuses a directory, such as a root, in which others can replace what is not theirs.
func checkShared(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return err
	}
	return checkWriters(real, info)
}
