package instance

import (
	"bytes"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
)

// checkArchitecture reads the file's header, because "exec format error" alone
// has cost people hours. A script with an interpreter line passes. foreign says that the
// program is for another processor than the host's, which explains why it does not run if it
// does not: a 32-bit host's system, or one that emulates, may well run it.
func checkArchitecture(path string) (foreign, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", path, err)
	}
	defer f.Close()
	system, archs, err := machine(f)
	if err != nil {
		return nil, fmt.Errorf("%s is not a program: %w", path, err)
	}
	why := fmt.Errorf("%s is made for %s %v; this is %s %s", path, system, archs, runtime.GOOS, runtime.GOARCH)
	switch {
	case system != "" && system != runtime.GOOS:
		return nil, why
	case system == "" || slices.Contains(archs, runtime.GOARCH):
		return nil, nil
	}
	return why, nil
}

// machine gives the system and the architectures a program is made for, in Go's
// words. The system is empty for a script.
func machine(r io.ReaderAt) (system string, archs []string, err error) {
	magic := make([]byte, 4)
	if _, err := r.ReadAt(magic, 0); err != nil {
		return "", nil, fmt.Errorf("it is too short: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte("#!")):
		return "", nil, nil
	case bytes.HasPrefix(magic, []byte(elf.ELFMAG)):
		return elfMachine(r)
	case bytes.HasPrefix(magic, []byte("MZ")):
		return peMachine(r)
	default:
		return machoMachine(r)
	}
}

func elfMachine(r io.ReaderAt) (string, []string, error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return "", nil, err
	}
	names := map[elf.Machine]string{
		elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_386: "386",
		elf.EM_ARM: "arm", elf.EM_RISCV: "riscv64", elf.EM_PPC64: "ppc64", elf.EM_S390: "s390x",
	}
	name, ok := names[f.Machine]
	if !ok {
		name = f.Machine.String()
	}
	// ELF is what several systems use, so the system is taken to be this one
	// wherever this one uses it.
	if runtime.GOOS == "darwin" || runtime.GOOS == "windows" {
		return "linux", []string{name}, nil
	}
	return runtime.GOOS, []string{name}, nil
}

func peMachine(r io.ReaderAt) (string, []string, error) {
	f, err := pe.NewFile(r)
	if err != nil {
		return "", nil, err
	}
	names := map[uint16]string{
		pe.IMAGE_FILE_MACHINE_AMD64: "amd64", pe.IMAGE_FILE_MACHINE_ARM64: "arm64",
		pe.IMAGE_FILE_MACHINE_I386: "386",
	}
	name, ok := names[f.Machine]
	if !ok {
		name = fmt.Sprintf("machine %#x", f.Machine)
	}
	return "windows", []string{name}, nil
}

func machoMachine(r io.ReaderAt) (string, []string, error) {
	if fat, err := macho.NewFatFile(r); err == nil {
		var archs []string
		for _, a := range fat.Arches {
			archs = append(archs, cpuName(a.Cpu))
		}
		return "darwin", archs, nil
	}
	f, err := macho.NewFile(r)
	if err != nil {
		return "", nil, fmt.Errorf("its header is none of ELF, PE and Mach-O")
	}
	return "darwin", []string{cpuName(f.Cpu)}, nil
}

func cpuName(c macho.Cpu) string {
	switch c {
	case macho.CpuAmd64:
		return "amd64"
	case macho.CpuArm64:
		return "arm64"
	default:
		return c.String()
	}
}
