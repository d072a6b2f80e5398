package main

import (
	"os"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func TestMain(m *testing.M) {
	osquerydtest.Main()
	helperMain()
	os.Exit(m.Run())
}
