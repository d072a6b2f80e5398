//go:build unix

package instance

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

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
		return fmt.Errorf("%q is relative; give an absolute path", p.socket)
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
