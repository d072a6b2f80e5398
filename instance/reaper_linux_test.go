package instance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/osqvisor/osqvisor/instance"
)

// reaperMain is hostMain as a host that inherits orphans. It ends every run's watcher by a signal that leaves its worker behind.
func reaperMain(in *instance.Instance, runs int) {
	err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for range runs {
		if err != nil {
			break
		}
		err = killedRun(in)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("%d runs, %d zombies\n", runs, zombies())
	os.Exit(0)
}

func killedRun(in *instance.Instance) error {
	done := make(chan error, 1)
	go func() { done <- in.Run(context.Background()) }()
	if err := in.WaitReady(context.Background()); err != nil {
		return err
	}
	err := unix.Kill(in.Snapshot().Run.PID, unix.SIGKILL)
	if ended := <-done; ended == nil {
		return errors.New("a run that was killed returned nil")
	}
	return err
}

// zombies counts the children of this process that nobody waited for.
func zombies() int {
	n := 0
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		raw, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if fields[0] == "Z" && fields[1] == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n
}
