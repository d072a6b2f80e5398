package runtime_test

import (
	"io"
	"os"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/internal/testhelp"
	"github.com/osqvisor/osqvisor/runtime"
	"github.com/osqvisor/osqvisor/stats"
)

// upgraded runs an instance whose osqueryd a test exchanges while it is down. breakIt
// puts the binary out of order, and returns what puts it right.
func upgraded(t *testing.T, breakIt func(path string) (mend func())) {
	t.Helper()
	testhelp.CheckLeaks(t)
	f := osquerydtest.Start(t, osquerydtest.WithScript(fast), osquerydtest.WithCopy())
	h := newHost(t, osqueryd{f.Path(), f}, runtime.WithInstance("vendor"))
	h.run(t)
	h.ready(t, "vendor")
	mend := breakIt(f.Path())
	kill(t, h.pid(t, "vendor"))
	testhelp.WaitEvents[stats.RunEnded](t, h.events, "vendor", 2) // the first, and the start that cannot succeed
	mend()
	testhelp.WaitEvents[stats.RunReady](t, h.events, "vendor", 2)
	h.answers(t, "vendor")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTrial13BinaryAwayInAnUpgrade(t *testing.T) {
	upgraded(t, func(path string) func() {
		must(t, os.Rename(path, path+".old"))
		return func() { must(t, os.Rename(path+".old", path)) }
	})
}

func TestTrial13HalfCopiedBinary(t *testing.T) {
	upgraded(t, func(path string) func() {
		must(t, os.Rename(path, path+".old"))
		half, rest := openCopy(t, path)
		must(t, half.Close())
		return func() {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = io.Copy(f, rest)
			must(t, err)
			must(t, f.Close())
		}
	})
}

// While a program is open for writing the kernel does not run it, and closing it
// changes nothing that a look at the file could show.
func TestTrial13BinaryOpenForWriting(t *testing.T) {
	upgraded(t, func(path string) func() {
		must(t, os.Rename(path, path+".old"))
		f, rest := openCopy(t, path)
		_, err := io.Copy(f, rest)
		must(t, err)
		return func() { must(t, f.Close()) }
	})
}

// openCopy begins a copy of path+".old" at path; rest is what is missing of it.
func openCopy(t *testing.T, path string) (f *os.File, rest io.Reader) {
	t.Helper()
	from, err := os.Open(path + ".old")
	must(t, err)
	t.Cleanup(func() { _ = from.Close() })
	info, err := from.Stat()
	must(t, err)
	f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	must(t, err)
	_, err = io.CopyN(f, from, info.Size()/2)
	must(t, err)
	return f, from
}
