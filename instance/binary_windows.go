package instance

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// checkBinaryMode looks at the name only: who may write the file is told by
// access lists, which osqueryd checks itself.
func checkBinaryMode(path string, _ fs.FileInfo) error {
	if !strings.EqualFold(filepath.Ext(path), ".exe") {
		return fmt.Errorf("%s is not an .exe", path)
	}
	return nil
}
