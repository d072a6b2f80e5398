package gameday

import (
	"errors"
	"os"
)

var errNoSignals = errors.New(noWindows)

func needsSignals(*world) string { return noWindows }

func keepsPrograms(*world) string { return "this system keeps the file of a running program" }

func kill(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

func freeze(int) error            { return errNoSignals }
func terminate(int) error         { return errNoSignals }
func killGroup(watcher int) error { return kill(watcher) } // the job takes the worker along
func lockFile(*os.File) error     { return errNoSignals }
