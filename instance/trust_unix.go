//go:build unix

package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// writers tells how somebody other than root and this user can change a file or a directory; it is empty when nobody can.
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

// privateGroup says that a group has no members but the owner: root's own and those that a system makes for each user have
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
