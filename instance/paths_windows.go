package instance

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

const pipePrefix = `\\.\pipe\`

// socketPath gives the name of osqueryd's pipe. Pipes live in a name space of
// their own, so there is no directory.
func (o *options) socketPath(dir string) (socket, socketDir string) {
	if o.socket != "" {
		return o.socket, ""
	}
	return pipePrefix + "osqvisor-" + shortID(dir), ""
}

func (o *options) checkSocket(p paths) error {
	if !strings.HasPrefix(p.socket, pipePrefix) {
		return fmt.Errorf("%q is not the name of a pipe, which begins with %s", p.socket, pipePrefix)
	}
	if len(p.socket) > 240 {
		return fmt.Errorf("%s is %d bytes long; at most 240 are allowed", p.socket, len(p.socket))
	}
	return nil
}

// shortID stands for a directory where its path would be too long.
func shortID(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:6])
}

func (p *paths) shortSocket() error { return nil }

func (p *paths) makeSocketDir() error { return nil }

// checkShared leaves it to access lists who may write to a directory.
func checkShared(string) error { return nil }

func checkDirOwner(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	return nil
}

func removeSockets(paths) {}
