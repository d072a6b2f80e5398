//go:build unix

package instance_test

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
	"github.com/osqvisor/osqvisor/stats"
)

// program writes a file that can be executed.
func program(t *testing.T, content string) string {
	t.Helper()
	dir := filepath.Join(root(t), "bin")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "osqueryd")
	if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

const saysVersion = "#!/bin/sh\necho osqueryd version 5.23.0\n"

// elfFor is an ELF header for a machine.
func elfFor(m elf.Machine) string {
	var b bytes.Buffer
	h := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(m), Version: uint32(elf.EV_CURRENT), Ehsize: 64,
	}
	_ = binary.Write(&b, binary.LittleEndian, h)
	return b.String()
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// foreign is made for another processor.
func foreign(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH == "arm64" {
		return program(t, elfFor(elf.EM_X86_64))
	}
	return program(t, elfFor(elf.EM_AARCH64))
}

// A 32-bit host's system may run it, as may one that emulates: it is tried.
func TestForeignBinaryIsTried(t *testing.T) {
	t.Parallel()
	_, err := instance.CheckBinary(patient(t), foreign(t))
	if !errors.Is(err, instance.ErrBinaryUnusable) {
		t.Fatal(err)
	}
	wantTexts(t, err.Error(), "--version: ", "is made for")
}

func TestBadBinaries(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		make func(t *testing.T) string
		want string
	}{
		"directory":      {func(t *testing.T) string { return root(t) }, "is a directory"},
		"not executable": {func(t *testing.T) string { p := program(t, saysVersion); chmod(t, p, 0o600); return p }, "chmod +x"},
		"world-writable": {func(t *testing.T) string { p := program(t, saysVersion); chmod(t, p, 0o777); return p }, "chmod o-w"},
		"sticky directory": {func(t *testing.T) string {
			p := program(t, saysVersion)
			chmod(t, filepath.Dir(p), 0o700|os.ModeSticky)
			return p
		}, "sticky directory"},
		"another architecture": {foreign, "is made for"},
		"no program":           {func(t *testing.T) string { return program(t, "hello, this is a text") }, "is not a program"},
		"not an osqueryd":      {func(t *testing.T) string { return program(t, "#!/bin/sh\necho hello\n") }, `printed no version but "hello"; is it an osqueryd?`},
		"fails":                {func(t *testing.T) string { return program(t, "#!/bin/sh\nexit 3\n") }, "exit status 3"},
		"too old": {func(t *testing.T) string {
			return osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{Version: "5.4.0"})).Path()
		}, "is osquery 5.4.0; 5.5.1 or newer is needed"},
		"dangling link": {func(t *testing.T) string {
			p := filepath.Join(root(t), "osqueryd")
			if err := os.Symlink("/no/such/file", p); err != nil {
				t.Fatal(err)
			}
			return p
		}, "there is nothing at"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := tt.make(t)
			got := refused(t, "a", instance.WithBinary(path), instance.WithRoot(root(t)))
			wantTexts(t, got, "WithBinary: ", tt.want, path)
		})
	}
}

// A link may lie anywhere.
func TestLinkInAStickyDirectory(t *testing.T) {
	t.Parallel()
	dir := root(t)
	link := filepath.Join(dir, "osqueryd")
	if err := os.Symlink(osquerydtest.Start(t).Path(), link); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o700|os.ModeSticky)
	if _, err := instance.CheckBinary(patient(t), link); err != nil {
		t.Error(err)
	}
}

func TestMissingBinaryIsTold(t *testing.T) {
	t.Parallel()
	_, err := instance.CheckBinary(context.Background(), "/no/such/osqueryd")
	if !errors.Is(err, instance.ErrBinaryMissing) {
		t.Errorf("%v is not ErrBinaryMissing", err)
	}
	_, err = instance.CheckBinary(context.Background(), program(t, "x"))
	if !errors.Is(err, instance.ErrBinaryUnusable) {
		t.Errorf("%v is not ErrBinaryUnusable", err)
	}
}

// A binary that hangs, as under a virus scanner, delays New by Timeouts.Binary and no more.
func TestHangingBinaryIsBounded(t *testing.T) {
	t.Parallel()
	began := time.Now()
	got := refused(t, "a", instance.WithBinary(program(t, "#!/bin/sh\nexec sleep 600\n")), instance.WithRoot(root(t)),
		instance.WithTimeouts(instance.Timeouts{Binary: 100 * time.Millisecond}))
	wantTexts(t, got, "WithBinary: ", "no answer within 100ms")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("New took %v", took)
	}
}

func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make files of another user")
	}
}

func TestFilesOfAnotherUser(t *testing.T) {
	asRoot(t)
	t.Parallel()
	fake := osquerydtest.Start(t)
	base, own := root(t), root(t)
	dir := filepath.Join(own, "a")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, 4242, 4242), os.Chown(base, 4242, 4242)); err != nil {
		t.Fatal(err)
	}
	binary := program(t, saysVersion)
	if err := os.Chown(binary, 4242, 4242); err != nil {
		t.Fatal(err)
	}
	wantTexts(t, refused(t, "a", instance.WithBinary(fake.Path()), instance.WithRoot(base)), "WithRoot: "+base, "belongs to user 4242")
	wantTexts(t, refused(t, "a", instance.WithBinary(fake.Path()), instance.WithRoot(own)), "WithRoot: "+own, "belongs to user 4242")
	wantTexts(t, refused(t, "a", instance.WithBinary(binary), instance.WithRoot(root(t))), "WithBinary: ", "belongs to user 4242")
}

// A directory that cannot be written to, for which root needs a file system that says so.
func TestUnwritableRoot(t *testing.T) {
	t.Parallel()
	fake := osquerydtest.Start(t)
	dir := "/proc/self/fdinfo" // of ours, and nothing can be made in it
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		dir = root(t)
		chmod(t, dir, 0o500)
	}
	wantTexts(t, refused(t, "a", instance.WithBinary(fake.Path()), instance.WithRoot(dir)), "WithRoot: "+dir, "cannot be")
}

// A root that would make the socket's path too long costs nothing: a short path is
// chosen, used, and gone after the run.
func TestLongRootGetsAShortSocket(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, binary string) {
		r := start(t, binary, instance.WithRoot(filepath.Join(root(t), strings.Repeat("long", 25))))
		socket := r.Socket()
		if len(socket) > 97 || strings.HasPrefix(socket, r.Directory()) {
			t.Fatalf("socket %s of %d bytes", socket, len(socket))
		}
		info, err := os.Stat(filepath.Dir(socket))
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("its directory: %v, %v", info, err)
		}
		if _, err := r.Query(patient(t), "select 1"); err != nil {
			t.Error(err)
		}
		r.stop()
		if err := r.wait(t); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Dir(socket)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket's directory is left: %v", err)
		}
	})
}

// The file at the path is looked at before every run.
func TestBinaryChangesBetweenRuns(t *testing.T) {
	t.Parallel()
	first := osquerydtest.Start(t, osquerydtest.WithScript(fast))
	second := osquerydtest.Start(t, osquerydtest.WithScript(osquerydtest.Script{TimeScale: 0.05, Version: "5.22.1"}))
	link := filepath.Join(root(t), "osqueryd")
	point := func(to string) {
		t.Helper()
		_ = os.Remove(link)
		if to == "" {
			return
		}
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	point(first.Path())
	in := newInstance(t, link)
	point("")
	_ = wantExit(t, in.Run(patient(t)), "prepare", "binary missing")
	point(second.Path())
	once(t, in)
	// Both fakes are this very test binary, so only the version tells them apart.
	if v := in.Snapshot().History[0].Version; v != "5.22.1" {
		t.Errorf("version %s after the binary was replaced", v)
	}
}

// A real osqueryd is one by any name, though it looks at that to tell what to be.
func TestBinaryOfAnotherName(t *testing.T) {
	t.Parallel()
	if realBinary() == "" {
		t.Skip("needs a real osqueryd, named by OSQUERYD")
	}
	link := filepath.Join(root(t), "acme")
	if err := os.Symlink(realBinary(), link); err != nil {
		t.Fatal(err)
	}
	r := start(t, link) // as a shell it would have no worker
	kill(t, workerPID(t, r))
	next[stats.WorkerReplaced](t, r.events)
	_ = workerPID(t, r)
}
