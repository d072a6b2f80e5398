package glog

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	raw := "W0821 23:59:60.000123  4711 watcher.cpp:318] osqueryd worker (12) stopping: [x] y"
	want := Line{
		Level: slog.LevelWarn, Month: time.August, Day: 21, Hour: 23, Minute: 59, Second: 60, Microsecond: 123,
		Thread: 4711, File: "watcher.cpp", Line: 318, Message: "osqueryd worker (12) stopping: [x] y", Raw: raw,
	}
	for _, end := range []string{"", "\n", "\r\n"} {
		got, ok := Parse([]byte(raw + end))
		if !ok {
			t.Fatalf("line with end %q was not parsed", end)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("end %q (-want +got):\n%s", end, diff)
		}
	}
}

func TestParseLevels(t *testing.T) {
	levels := map[string]slog.Level{"I": slog.LevelInfo, "W": slog.LevelWarn, "E": slog.LevelError, "F": LevelFatal}
	for letter, want := range levels {
		line, ok := Parse([]byte(letter + "0102 03:04:05.000006 7 a.cpp:8]"))
		if !ok || line.Level != want || line.Message != "" {
			t.Errorf("%s: got %+v, %v; want level %v and no message", letter, line, ok, want)
		}
	}
}

func TestParseFileWithColonAndBlank(t *testing.T) {
	line, ok := Parse([]byte(`E0102 03:04:05.000006 7 C:\my dir\a.cpp:8] m`))
	if !ok || line.File != `C:\my dir\a.cpp` || line.Line != 8 || line.Message != "m" {
		t.Errorf("got %+v, %v", line, ok)
	}
}

var foreign = []string{
	"", "\n", "I", "ERROR: unknown command line flag 'nosuchflag'",
	"D0102 03:04:05.000006 7 a.cpp:8] level", "I1302 03:04:05.000006 7 a.cpp:8] month", "I0100 03:04:05.000006 7 a.cpp:8] day",
	"I0102 24:04:05.000006 7 a.cpp:8] hour", "I0102 03:04:05,000006 7 a.cpp:8] comma", "I0102 03:04:05.000006 7 a.cpp:8 open",
	"I0102 03:04:05.000006 x a.cpp:8] thread", "I0102 03:04:05.000006 7 a.cpp:+8] sign", "I0102 03:04:05.000006 7 a.cpp] no line",
	"I0102 03:04:05.000006 7 :8] no file", "I0102 03:04:05.000006 ] nothing", "I0102 03:04:05.000006 7 a.cpp:] empty",
	"I0102 03:04:05.000006 99999999999999999999 a.cpp:8] thread too long",
}

func TestParseRefusesForeignLinesWithoutAllocating(t *testing.T) {
	for _, text := range foreign {
		raw := []byte(text)
		if line, ok := Parse(raw); ok {
			t.Errorf("%q was parsed as %+v", text, line)
		}
		if n := testing.AllocsPerRun(10, func() { Parse(raw) }); n != 0 {
			t.Errorf("%q: %v allocations, want none", text, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range foreign {
		f.Add([]byte(text))
	}
	f.Add([]byte("W0821 23:59:60.000123  4711 watcher.cpp:318] a ] b"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		line, ok := Parse(raw)
		if !ok {
			return
		}
		if line.Raw != string(bytes.TrimRight(raw, "\r\n")) || !strings.HasSuffix(line.Raw, line.Message) {
			t.Errorf("raw %q or message %q is not of %q", line.Raw, line.Message, raw)
		}
		// What was understood, written again, is understood alike.
		letter := map[slog.Level]string{slog.LevelInfo: "I", slog.LevelWarn: "W", slog.LevelError: "E", LevelFatal: "F"}[line.Level]
		again := fmt.Sprintf("%s%02d%02d %02d:%02d:%02d.%06d %d %s:%d] %s", letter, line.Month, line.Day,
			line.Hour, line.Minute, line.Second, line.Microsecond, line.Thread, line.File, line.Line, line.Message)
		second, ok := Parse([]byte(again))
		second.Raw = line.Raw
		if !ok || second != line {
			t.Errorf("%q became %q: %+v, then %+v (%v)", raw, again, line, second, ok)
		}
	})
}

func TestTailKeepsTheLastWithinBothBounds(t *testing.T) {
	tests := map[string]struct {
		lines, bytes int
		add          []string
		want         []string
	}{
		"empty":     {2, 10, nil, nil},
		"lines":     {2, 100, []string{"a", "b", "c"}, []string{"b", "c"}},
		"bytes":     {9, 4, []string{"aa", "bb", "cc"}, []string{"bb", "cc"}},
		"long":      {9, 4, []string{"a", "bcdefg"}, []string{"bcde"}},
		"no bounds": {0, 0, []string{"ab", "cd"}, []string{"c"}},
	}
	for name, tt := range tests {
		tail := NewTail(tt.lines, tt.bytes)
		for _, line := range tt.add {
			tail.Add([]byte(line))
		}
		if diff := cmp.Diff(tt.want, tail.Lines()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTailCopiesAndIsSafeForConcurrentUse(t *testing.T) {
	tail := NewTail(5, 100)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			buffer := []byte("line")
			for range 100 {
				copy(buffer, "line")
				tail.Add(buffer)
				copy(buffer, "XXXX")
				tail.Lines()
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff([]string{"line", "line", "line", "line", "line"}, tail.Lines()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
