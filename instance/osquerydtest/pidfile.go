package osquerydtest

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
)

// pidfile is a locked file with the pid of the watcher (or single process).
type pidfile struct {
	file *os.File
}

// takePidfile returns nil after it has logged why the start must fail.
func takePidfile(p *process) (*pidfile, bool) {
	if p.flags.bool("ephemeral") {
		return &pidfile{}, true
	}
	path := p.flags.str("pidfile")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		reason := "IOError"
		if errors.Is(err, fs.ErrPermission) {
			reason = "AccessDenied"
		}
		return nil, refusePidfile(p, reason)
	}
	if tryLock(f) != nil {
		_ = f.Close()
		return nil, refusePidfile(p, "Busy")
	}
	_ = f.Truncate(0)
	if _, err := f.WriteAt([]byte(strconv.Itoa(p.id.PID)), 0); err != nil {
		_ = f.Close()
		return nil, refusePidfile(p, "IOError")
	}
	return &pidfile{file: f}, true
}

func refusePidfile(p *process, reason string) bool {
	p.log.error("init.cpp:511", "osqueryd Pidfile check failed: Pidfile::Error::%s", reason)
	return false
}

// release removes the file, as a clean end does; a sudden death leaves it.
func (f *pidfile) release(p *process) {
	if f == nil || f.file == nil {
		return
	}
	if !isClosed(p.dead) {
		_ = os.Remove(f.file.Name())
	}
	_ = f.file.Close()
}
