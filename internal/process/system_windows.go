package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// killedCode is the exit code of processes that this package terminates.
const killedCode = 1

// container is a job object: it ends everything in it when its last handle is closed, which the death of the host does.
type container struct {
	mu  sync.Mutex // guards job against use after release
	job windows.Handle
}

func newContainer(*Spec) (*container, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("create job object: %w", err)
	}
	var limits windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits))) //nolint:gosec // the call takes its struct by address
	if err != nil {
		_ = windows.CloseHandle(job) // nothing follows from a failure
		return nil, fmt.Errorf("set limits of job object: %w", err)
	}
	return &container{job: job}, nil
}

func (c *container) childFiles() []*os.File { return nil }

// sysAttr starts the child suspended, so that it cannot start anything before it is in the job.
func (c *container) sysAttr(*Spec) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		HideWindow:    true,
		CreationFlags: windows.CREATE_SUSPENDED | windows.CREATE_NEW_PROCESS_GROUP,
	}
}

func (c *container) adopt(child *os.Process, _ Identity) error {
	var assignErr error
	err := child.WithHandle(func(handle uintptr) {
		assignErr = windows.AssignProcessToJobObject(c.job, windows.Handle(handle))
	})
	if err = errors.Join(err, assignErr); err != nil {
		return fmt.Errorf("assign to job object: %w", err)
	}
	return resume(uint32(child.Pid))
}

// resume lets the suspended child run. The standard library keeps no handle of its first thread, so it is looked up.
func resume(pid uint32) error {
	snapshot, err := windows.CreateToolhelp32Snapshot(windows.TH32CS_SNAPTHREAD, 0)
	if err != nil {
		return fmt.Errorf("list threads: %w", err)
	}
	defer func() { _ = windows.CloseHandle(snapshot) }() // nothing follows from a failure
	entry := windows.ThreadEntry32{Size: uint32(unsafe.Sizeof(windows.ThreadEntry32{}))}
	for err = windows.Thread32First(snapshot, &entry); err == nil; err = windows.Thread32Next(snapshot, &entry) {
		if entry.OwnerProcessID == pid {
			return resumeThread(entry.ThreadID)
		}
	}
	return fmt.Errorf("find the first thread: %w", err)
}

func resumeThread(id uint32) error {
	thread, err := windows.OpenThread(windows.THREAD_SUSPEND_RESUME, false, id)
	if err != nil {
		return fmt.Errorf("open the first thread: %w", err)
	}
	defer func() { _ = windows.CloseHandle(thread) }() // nothing follows from a failure
	if _, err = windows.ResumeThread(thread); err != nil {
		return fmt.Errorf("resume the first thread: %w", err)
	}
	return nil
}

func (c *container) killGroup(Identity) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job == 0 {
		return nil
	}
	return windows.TerminateJobObject(c.job, killedCode)
}

// accounting is JOBOBJECT_BASIC_ACCOUNTING_INFORMATION.
type accounting struct {
	totalUser, totalKernel, periodUser, periodKernel int64
	pageFaults, total, active, terminated            uint32
}

func (c *container) active() (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job == 0 {
		return 0, nil
	}
	var now accounting
	err := windows.QueryInformationJobObject(c.job, windows.JobObjectBasicAccountingInformation,
		uintptr(unsafe.Pointer(&now)), uint32(unsafe.Sizeof(now)), nil) //nolint:gosec // the call takes its struct by address
	return now.active, err
}

// release closes the job, which ends whoever is left in it.
func (c *container) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.job != 0 {
		_ = windows.CloseHandle(c.job) // nothing follows from a failure
		c.job = 0
	}
}

func pinThread() (unpin func()) { return func() {} }

// awaitEnd returns when the child has ended; its handle keeps the pid until Wait.
func awaitEnd(child *os.Process, _ Identity) error {
	var waitErr error
	err := child.WithHandle(func(handle uintptr) {
		_, waitErr = windows.WaitForSingleObject(windows.Handle(handle), windows.INFINITE)
	})
	return errors.Join(err, waitErr)
}

func signalName(*os.ProcessState) string { return "" }

// Terminate ends the whole job at once, as KillGroup does: Windows has no request to end for a process without a window.
// A child that has ended already is success.
func (p *Process) Terminate() error { return p.KillGroup() }

// KillGroup ends the child and everything in its job without waiting for it. A job that is gone is success.
func (p *Process) KillGroup() error { return p.box.killGroup(p.claim.leader) }

// groupAlive reports whether any process of the job still runs. When it cannot be known, it is true.
func (p *Process) groupAlive() bool {
	n, err := p.box.active()
	return err != nil || n > 0
}

// collectOrphans and lateOrphans have nothing to do: Windows has no zombies.
func collectOrphans(Identity)        {}
func lateOrphans(Identity, bool) int { return 0 }

// claim is what makes processes ours. The job object ended the others together with the host, so there is the leader only.
type claim struct {
	leader Identity
	binary string
	runID  string
}

type census struct{ ours, unproven, ending []Identity }

func (c claim) survey() (census, error) {
	if c.leader.Alive() {
		return census{ours: []Identity{c.leader}}, nil
	}
	return census{}, nil
}

const probeAccess = windows.PROCESS_QUERY_LIMITED_INFORMATION | windows.SYNCHRONIZE

func probe(pid int) (procInfo, error) {
	if pid <= 0 {
		return procInfo{}, ErrNotFound
	}
	handle, err := openProcess(pid, probeAccess)
	if err != nil {
		return procInfo{}, err
	}
	defer func() { _ = windows.CloseHandle(handle) }() // nothing follows from a failure
	return probeHandle(handle, pid)
}

func openProcess(pid int, access uint32) (windows.Handle, error) {
	handle, err := windows.OpenProcess(access, false, uint32(pid))
	// OpenProcess calls a pid that nobody has an invalid parameter.
	if errors.Is(err, windows.ERROR_INVALID_PARAMETER) {
		return 0, ErrNotFound
	}
	return handle, err
}

func probeHandle(handle windows.Handle, pid int) (procInfo, error) {
	var creation, exit, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(handle, &creation, &exit, &kernel, &user); err != nil {
		return procInfo{}, err
	}
	start := uint64(creation.HighDateTime)<<32 | uint64(creation.LowDateTime)
	event, err := windows.WaitForSingleObject(handle, 0)
	return procInfo{
		pgid: 0,
		id:   Identity{PID: pid, StartTime: strconv.FormatUint(start, 10)},
		// An ended process stays visible as long as anybody holds a handle of it.
		zombie: err == nil && event == windows.WAIT_OBJECT_0,
	}, nil
}

// killProcess proves the identity on the handle that it then terminates, so the pid cannot change hands in between.
func killProcess(id Identity) error {
	if id.PID <= 0 {
		return ErrNotFound
	}
	handle, err := openProcess(id.PID, probeAccess|windows.PROCESS_TERMINATE)
	if err != nil {
		return err
	}
	defer func() { _ = windows.CloseHandle(handle) }() // nothing follows from a failure
	info, err := probeHandle(handle, id.PID)
	if err != nil {
		return err
	}
	if info.id != id || info.zombie {
		return ErrNotFound
	}
	return windows.TerminateProcess(handle, killedCode)
}

func classify(spec *Spec, err error) *StartError {
	hint, kind := kindOf(spec, err)
	return &StartError{Path: spec.Path, Kind: kind, Hint: hint, Err: err}
}

func kindOf(spec *Spec, err error) (hint string, kind error) {
	var path *fs.PathError
	if errors.Is(err, windows.ERROR_DIRECTORY) || errors.As(err, &path) && path.Op == "chdir" {
		return "create " + spec.Dir + " and let this user enter it", ErrDir
	}
	switch {
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND), errors.Is(err, windows.ERROR_PATH_NOT_FOUND):
		return "install it or correct the path", ErrBinaryNotFound
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		return "check the file's access list and application control policies", ErrPermission
	case errors.Is(err, windows.ERROR_VIRUS_INFECTED):
		return "the antivirus blocks it: allow the file there", ErrPermission
	case errors.Is(err, windows.ERROR_BAD_EXE_FORMAT), errors.Is(err, windows.ERROR_EXE_MACHINE_TYPE_MISMATCH):
		return fmt.Sprintf("install the build for windows/%s", runtime.GOARCH), ErrNotExecutable
	case errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		return "close the file before starting it, and replace binaries by rename", ErrTextBusy
	case errors.Is(err, windows.ERROR_NOT_ENOUGH_MEMORY), errors.Is(err, windows.ERROR_NO_SYSTEM_RESOURCES):
		return "free memory, or run fewer instances", ErrResources
	}
	return "", ErrStart
}
