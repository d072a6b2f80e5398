package process

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/windows"
)

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

// signalProcess proves the identity on the handle that it then terminates, so the pid cannot change hands in between.
func signalProcess(id Identity, sig os.Signal) error {
	if sig != os.Kill {
		return ErrUnsupportedSignal
	}
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
