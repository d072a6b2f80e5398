package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// zombies counts the children of this process that ended and were not waited for.
func zombies() int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	self, n := strconv.Itoa(os.Getpid()), 0
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		text := string(data)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // state, parent, …
		if len(fields) > 1 && fields[0] == "Z" && fields[1] == self {
			n++
		}
	}
	return n
}
