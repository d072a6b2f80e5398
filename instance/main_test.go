package instance_test

import (
	"os"
	"testing"

	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

func TestMain(m *testing.M) {
	osquerydtest.Main()
	hostMain()
	os.Exit(m.Run())
}
