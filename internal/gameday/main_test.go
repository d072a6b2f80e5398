package gameday

import (
	"os"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func TestMain(m *testing.M) {
	osquerydtest.Main()
	HelperMain()
	os.Exit(m.Run())
}
