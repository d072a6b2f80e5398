package process

import (
	"errors"
	"fmt"
	"os"
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

func (c *container) tethered() bool { return true }

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

// Terminate ends the whole job at once, as KillGroup does: Windows has no way to ask a process without a window to end.
// A child that has ended already is success.
func (p *Process) Terminate() error { return p.KillGroup() }

// KillGroup ends the child and everything in its job without waiting for it. A job that is gone is success.
func (p *Process) KillGroup() error { return p.box.killGroup(p.claim.leader) }

// GroupAlive reports whether any process of the job still runs. When it cannot be told, it says true.
func (p *Process) GroupAlive() bool {
	n, err := p.box.active()
	return err != nil || n > 0
}

// collectOrphans and lateOrphans have nothing to do: Windows has no zombies.
func collectOrphans(Identity)        {}
func lateOrphans(Identity, bool) int { return 0 }
