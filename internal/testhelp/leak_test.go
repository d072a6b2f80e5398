package testhelp

import (
	"os"
	"testing"
)

func TestGrownReportsEachKind(t *testing.T) {
	base := resources{goroutines: 2, files: []string{"0"}, children: nil}
	if err := base.grown(base); err != nil {
		t.Errorf("nothing grew, but: %v", err)
	}
	for name, now := range map[string]resources{
		"goroutine": {goroutines: 3, files: base.files},
		"file":      {goroutines: 2, files: []string{"0", "1"}},
		"child":     {goroutines: 2, files: base.files, children: []string{"1"}},
	} {
		if base.grown(now) == nil {
			t.Errorf("a new %s is not reported", name)
		}
	}
}

func TestOpenFileIsSeen(t *testing.T) {
	before := openFiles()
	if before == nil {
		t.Skip("open files cannot be listed here")
	}
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if len(openFiles()) != len(before)+1 {
		t.Error("an open file is not seen")
	}
}
