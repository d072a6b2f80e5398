package soak_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

// hostArgument makes the test binary the host of the instances, instead of a test.
const hostArgument = "soak-host"

func TestMain(m *testing.M) {
	osquerydtest.Main()
	if len(os.Args) == 2 && os.Args[1] == hostArgument {
		if err := runHost(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "soak host:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}
