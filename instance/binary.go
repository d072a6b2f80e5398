package instance

import (
	"bytes"
	"context"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/osqvisor/osqvisor/internal/guard"
	"github.com/osqvisor/osqvisor/internal/process"
)

func (o *options) checkedBinary() (Binary, error) {
	if o.timeouts.Binary <= 0 || len(o.checkEnv()) > 0 { // it could make the binary something else
		return Binary{}, errSkipped
	}
	if b, ok := o.checks.known(o.binary); ok {
		return b, nil
	}
	if o.binary == "" && o.settings.NoBinary {
		return Binary{}, errSkipped
	}
	return o.checkBinary(o.ctx, o.binary)
}

func identityOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fileIdentity(info)
}

// MinVersion is the oldest osquery that can be run: pidfile locks and the denylist
// of distributed queries came with it, and the tests pass on it.
const MinVersion = "5.5.1"

// Reasons why a binary cannot be run. CheckBinary wraps them.
var (
	// ErrBinaryMissing reports that there is no file at the path.
	ErrBinaryMissing = errors.New("the binary is missing")
	// ErrBinaryUnusable reports that the file cannot, or must not, be run.
	ErrBinaryUnusable = errors.New("the binary cannot be used")
)

// errBinarySlow does not condemn the binary: a virus scanner or a busy machine may be why.
var errBinarySlow = errors.New("it gave no answer")

// Binary is an osqueryd that was checked, with its version and flags.
type Binary struct {
	// Path is absolute.
	Path string
	// Version is osquery's, such as "5.23.0".
	Version string

	lacks map[string]bool // the flags of the SDK's own that it does not know
	print fingerprint
}

// fingerprint shows whether a file is still the one that was looked at.
type fingerprint struct {
	info fs.FileInfo
}

func (f fingerprint) is(info fs.FileInfo) bool {
	return f.info != nil && os.SameFile(f.info, info) &&
		f.info.Size() == info.Size() && f.info.ModTime().Equal(info.ModTime())
}

// CheckBinary checks the osqueryd at path and runs it for its version and flags. Of the options
// WithTimeouts and WithEnv count. Each execution is bounded by ctx, by Timeouts.Binary and by
// 4 MiB of output, and leaves no process behind.
//
// It refuses a file that is missing, cannot be executed, is made for another system or
// processor, or is older than MinVersion; and, except on Windows, one that anybody but root and
// this user could change or replace, be it by a directory or link on the way to it; or that lies
// directly in a sticky directory such as /tmp, which osqueryd refuses.
func CheckBinary(ctx context.Context, path string, opts ...Option) (Binary, error) {
	o := defaults("")
	for _, opt := range opts {
		if opt != nil {
			opt(o)
		}
	}
	if o.timeouts.Binary <= 0 {
		o.timeouts.Binary = Timeouts{}.withDefaults().Binary // New of an instance reports the mistake
	}
	if err := errors.Join(o.checkEnv()...); err != nil {
		return Binary{Path: path}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.checkBound(), errDiskHangs)
	defer cancel()
	var b Binary
	err := guard.Call(ctx, flightEnds, func() (err error) {
		b, err = o.checkBinary(ctx, path)
		return err
	}, nil)
	if errors.Is(err, guard.ErrHangs) {
		return Binary{Path: path}, err
	}
	if err == nil {
		o.checks.remember(b)
	}
	return b, err
}

// checkBound is how long all checks of New or CheckBinary may take, with a disk that hangs.
func (o *options) checkBound() time.Duration {
	return max(o.timeouts.Disk, time.Second) + 3*max(o.timeouts.Binary, 0)
}

func (o *options) checkBinary(ctx context.Context, path string) (Binary, error) {
	b := Binary{Path: path}
	if path == "" {
		return b, fmt.Errorf("%w: the path is empty; name the osqueryd to run", ErrBinaryMissing)
	}
	if !filepath.IsAbs(path) {
		return b, fmt.Errorf("%w: %q is relative; use an absolute path", ErrBinaryUnusable, path)
	}
	foreign, err := inspectBinary(&b)
	if err != nil {
		return b, err
	}
	if err := o.probeVersion(ctx, &b); err != nil {
		if foreign != nil {
			return b, fmt.Errorf("%w; %w", err, foreign)
		}
		return b, err
	}
	verdict, err := o.probeFlags(ctx, path, sdkProbe())
	b.lacks = verdict.unknown
	return b, err
}

// unchanged reports whether the file is still the one that was checked.
func (b Binary) unchanged() bool {
	info, err := os.Stat(b.Path)
	return err == nil && b.print.is(info)
}

func inspectBinary(b *Binary) (foreign, err error) {
	info, err := os.Stat(b.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is nothing at %s; install osquery or correct the path", ErrBinaryMissing, b.Path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBinaryUnusable, err)
	case info.IsDir():
		return nil, fmt.Errorf("%w: %s is a directory; name the osqueryd in it", ErrBinaryUnusable, b.Path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrBinaryUnusable, b.Path)
	}
	b.print = fingerprint{info: info}
	if err := checkBinaryMode(b.Path, info); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinaryUnusable, err)
	}
	if foreign, err = checkArchitecture(b.Path); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBinaryUnusable, err)
	}
	return foreign, nil
}

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)\.(\d+)`)

func (o *options) probeVersion(ctx context.Context, b *Binary) error {
	out, err := o.checks.run(ctx, probe{
		path: b.Path, args: []string{"--version"}, env: o.env, timeout: o.timeouts.Binary,
	})
	if err != nil {
		return fmt.Errorf("%w: %s --version: %w", ErrBinaryUnusable, b.Path, err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("%w: %s --version printed no version but %q; is it an osqueryd?",
			ErrBinaryUnusable, b.Path, clip(out, 80))
	}
	b.Version = fmt.Sprintf("%s.%s.%s", m[1], m[2], m[3])
	if versionLess(b.Version, MinVersion) {
		return fmt.Errorf("%w: %s is osquery %s; %s or newer is needed", ErrBinaryUnusable, b.Path, b.Version, MinVersion)
	}
	return nil
}

func versionLess(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.Atoi(as[i])
		y, errY := strconv.Atoi(bs[i])
		if errX != nil || errY != nil || x == y {
			continue
		}
		return x < y
	}
	return false
}

func clip(b []byte, n int) string {
	s := strings.TrimSpace(string(b))
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// checkArchitecture reads the file's header, because "exec format error" alone
// has cost people hours. A script with an interpreter line passes. foreign reports that the
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

// machine returns the system and the architectures of a program by their names in Go. The
// system is empty for a script.
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

// binaryChecks remembers what binaries answered to the checks of New and Run, so that
// instances that share it execute a binary once for each set of flags, and again when its
// file has changed. An answer that was a failure is not kept, but those who wait for one at
// the same time share it. The zero value is ready for use. All methods are safe for
// concurrent use.
type binaryChecks struct {
	mu      sync.Mutex
	checked map[string]Binary
	answers map[string]answer
	flights map[string]*flight
}

// remember keeps a binary that was checked, so that instances that share the checks do not
// look at it again while its file stays as it is.
func (c *binaryChecks) remember(b Binary) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.checked == nil {
		c.checked = map[string]Binary{}
	}
	c.checked[b.Path] = b
}

// known returns the binary at path if it was checked and its file is the same.
func (c *binaryChecks) known(path string) (Binary, bool) {
	c.mu.Lock()
	b, ok := c.checked[path]
	c.mu.Unlock()
	return b, ok && b.unchanged()
}

// probe is an execution of a binary for what it prints.
type probe struct {
	path    string
	args    []string
	env     []string // of the host's own
	both    bool     // stderr counts too
	refuses bool     // exit code 1 is an answer, as gflags' is
	timeout time.Duration
}

// answer is what an execution printed, and how it ended.
type answer struct {
	out []byte
	err error
}

// flight is an execution under way.
type flight struct {
	done    chan struct{} // closed when answer is set
	answer  answer
	waiting int // guarded by the lock of binaryChecks
	cancel  context.CancelFunc
}

// maxAnswers bounds what is remembered; a host has few sets of flags.
const maxAnswers = 1000

// flightEnds bounds the wait for an execution that nobody wants any more.
const flightEnds = 2 * time.Second

// run returns what is known already, or executes the binary, once at a time.
func (c *binaryChecks) run(ctx context.Context, p probe) ([]byte, error) {
	file := identityOf(p.path)
	key := strings.Join(slices.Concat([]string{p.path, file, fmt.Sprint(p.both), fmt.Sprint(len(p.env))}, p.env, p.args), "\x00")
	a, f := c.join(key, file, p)
	if f == nil {
		return a.out, a.err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		c.leave(f)
		return nil, context.Cause(ctx)
	}
	return f.answer.out, f.answer.err
}

// join returns the answer, or the flight that brings it.
func (c *binaryChecks) join(key, file string, p probe) (answer, *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a, ok := c.answers[key]; ok && file != "" {
		return a, nil
	}
	shared := key + "\x00" + p.timeout.String()
	if f := c.flights[shared]; f != nil && f.waiting > 0 {
		f.waiting++
		return answer{}, f
	}
	if c.flights == nil {
		c.flights, c.answers = map[string]*flight{}, map[string]answer{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &flight{done: make(chan struct{}), waiting: 1, cancel: cancel}
	c.flights[shared] = f
	go func() { // it ends with the execution, which leave ends and joins
		defer close(f.done)
		defer cancel()
		f.answer = execute(ctx, p)
		c.land(key, shared, file, p, f)
	}()
	return answer{}, f
}

// land keeps an answer of a file that did not change meanwhile.
func (c *binaryChecks) land(key, shared, file string, p probe, f *flight) {
	keep := p.final(f.answer.err) && file != "" && identityOf(p.path) == file
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flights[shared] == f {
		delete(c.flights, shared)
	}
	if !keep {
		return
	}
	if len(c.answers) >= maxAnswers {
		clear(c.answers)
	}
	c.answers[key] = f.answer
}

// leave is for who does not wait any more. The last one ends the execution.
func (c *binaryChecks) leave(f *flight) {
	c.mu.Lock()
	f.waiting--
	last := f.waiting == 0
	c.mu.Unlock()
	if !last {
		return
	}
	f.cancel()
	timer := time.NewTimer(flightEnds)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C: // the system does not let go of it
	}
}

// final reports whether the result of an execution that ended so can be kept.
func (p probe) final(err error) bool {
	exit, ok := errors.AsType[exitStatus](err)
	return err == nil || ok && p.refuses && exit.Code == 1
}

const (
	// maxProbeOutput is some hundred times what a help text takes, in bytes.
	maxProbeOutput = 4 << 20
	// probeKillWait bounds the wait for the end of an execution that was killed.
	probeKillWait = 5 * time.Second
)

// exitStatus reports that an execution did not end with 0.
type exitStatus process.Exit

func (e exitStatus) Error() string {
	if e.Signal != "" {
		return "it was ended by " + e.Signal
	}
	return "exit status " + strconv.Itoa(e.Code)
}

// execute runs a binary for what it prints. It is bounded in time and size, because a sanity check under a virus scanner
// has been seen to hang, and leaves no process behind, whatever the binary is and starts.
func execute(ctx context.Context, p probe) answer {
	ctx, cancel := context.WithTimeoutCause(ctx, p.timeout, fmt.Errorf("%w within %v", errBinarySlow, p.timeout))
	defer cancel()
	var out bytes.Buffer // complete, and ours to read, when the child has exited
	keep := func(line []byte) {
		out.Write(line)
		out.WriteByte('\n')
	}
	spec := process.Spec{Path: p.path, Args: append([]string{p.path}, p.args...), Env: environ(p.env), MaxOutput: maxProbeOutput}
	if p.both {
		spec.Output = keep
	} else {
		spec.Stdout = keep
	}
	child, err := process.Start(ctx, spec)
	if err != nil {
		return answer{err: err}
	}
	select {
	case <-child.Exited():
	case <-ctx.Done():
		return answer{err: errors.Join(context.Cause(ctx), endProbe(child))}
	}
	switch exit := child.Exit(); {
	case exit.TooMuchOutput:
		return answer{err: fmt.Errorf("it printed more than %d MiB", maxProbeOutput>>20)}
	case exit.Err != nil:
		err = exit.Err
	case exit.Code != 0:
		err = exitStatus(exit)
	}
	return answer{out.Bytes(), err}
}

// endProbe kills an execution and all it started.
func endProbe(child *process.Process) error {
	err := child.KillGroup()
	timer := time.NewTimer(probeKillWait)
	defer timer.Stop()
	select {
	case <-child.Exited():
		return err
	case <-timer.C:
		return errors.Join(err, fmt.Errorf("process %d does not end although it was killed", child.PID()))
	}
}
