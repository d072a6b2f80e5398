//go:build unix

package instance

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// maxSocketPath leaves room, within the 103 bytes that macOS allows a socket's
// path, for the number that osqueryd appends for an extension's own socket.
const maxSocketPath = 97

// socketPath gives the path of osqueryd's socket and the directory it is in. By
// default that is the instance's own directory; if that makes the path too long,
// a directory of its own below the system's temporary one, closed to others and
// named so that the next host process finds it again.
func (o *options) socketPath(dir string) (socket, socketDir string) {
	if o.socket != "" {
		return o.socket, filepath.Dir(o.socket)
	}
	sockets := filepath.Join(dir, "run")
	if socket = filepath.Join(sockets, "osqueryd.sock"); len(socket) <= maxSocketPath {
		return socket, sockets
	}
	base := filepath.Join(os.TempDir(), "osqvisor-"+strconv.Itoa(os.Geteuid()))
	sockets = filepath.Join(base, shortID(dir))
	return filepath.Join(sockets, "s"), sockets
}

func (o *options) checkSocket(p paths) error {
	if !filepath.IsAbs(p.socket) {
		return fmt.Errorf("%q is relative; give an absolute path", p.socket)
	}
	if len(p.socket) > maxSocketPath {
		if o.socket != "" {
			return fmt.Errorf("%s is %d bytes long; at most %d are allowed, or leave the option out for a short one",
				p.socket, len(p.socket), maxSocketPath)
		}
		return fmt.Errorf("%s is %d bytes long; at most %d are allowed: set a short one, or a shorter TMPDIR",
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

// makeSocketDir makes the directory of the socket, which nobody else may enter.
func makeSocketDir(p paths) error {
	if p.ownSocketDir {
		if err := makeDir(filepath.Dir(p.socketDir), true); err != nil {
			return err
		}
	}
	return makeDir(p.socketDir, true)
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
	stale, _ := filepath.Glob(escapeGlob(p.socket) + ".*")
	for _, path := range append(stale, p.socket) {
		if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			_ = os.Remove(path) // a leftover that cannot be removed is osqueryd's to report
		}
	}
	if p.ownSocketDir {
		_ = os.Remove(p.socketDir) // empty by now, or not ours to remove
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
