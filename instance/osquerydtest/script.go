package osquerydtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/osqvisor/osqvisor/internal/fakeosqueryd"
)

// DefaultVersion is the version of a fake without Script.Version.
const DefaultVersion = fakeosqueryd.DefaultVersion

// ScriptName is the name of the file of the script, in the binary's directory.
const ScriptName = "osqueryd.script.json"

// Script configures a fake; the zero value behaves like osqueryd. Each process reads it once,
// at its start.
type Script struct {
	Version string `json:"version,omitempty"`

	// TimeScale multiplies osqueryd's own periods: polls, respawn waits, pings, schedule,
	// config refresh, status relays, retries. 0.1 is ten times faster; default 1.
	TimeScale float64 `json:"time_scale,omitempty"`
	// DeadlineScale multiplies the time that others have: extensions_timeout, thrift_timeout,
	// alarm_timeout, and the forced shutdown delay. Default 1.
	DeadlineScale float64 `json:"deadline_scale,omitempty"`
	// WatcherPoll replaces the watcher's and worker's scaled poll of 3 s.
	WatcherPoll time.Duration `json:"watcher_poll,omitempty"`
	// QuickDeath replaces the scaled 4 s within which a worker's death counts towards "Too many
	// worker restarts".
	QuickDeath time.Duration `json:"quick_death,omitempty"`

	// Tables are added to the built-in ones, or replace them.
	Tables []Table `json:"tables,omitempty"`
	// Rules are applied in order.
	Rules []Rule `json:"rules,omitempty"`
}

// Table is a table with fixed content; all columns are TEXT.
type Table struct {
	Name    string              `json:"name"`
	Columns []string            `json:"columns"`
	Rows    []map[string]string `json:"rows,omitempty"`
}

// WithRule returns a copy of the script with another rule.
func (s Script) WithRule(r Rule) Script {
	s.Rules = append(append([]Rule(nil), s.Rules...), r)
	return s
}

// Validate reports every mistake in the script.
func (s Script) Validate() error {
	var errs []error
	if s.TimeScale < 0 || s.DeadlineScale < 0 || s.WatcherPoll < 0 || s.QuickDeath < 0 {
		errs = append(errs, errors.New("time scales, watcher poll and quick death must not be negative"))
	}
	for i, t := range s.Tables {
		if t.Name == "" || len(t.Columns) == 0 {
			errs = append(errs, fmt.Errorf("table %d: give it a name and at least one column", i))
		}
	}
	for i, r := range s.Rules {
		if err := r.validate(); err != nil {
			errs = append(errs, fmt.Errorf("rule %d: %w", i, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("invalid script: %w", err)
	}
	return nil
}

// config returns the script's part of the engine's settings.
func (s Script) config(args []string, stdout, stderr io.Writer, d fakeosqueryd.Director) fakeosqueryd.Config {
	c := fakeosqueryd.Config{
		Args: args, Stdout: stdout, Stderr: stderr, Director: d,
		Version: s.Version, TimeScale: s.TimeScale, DeadlineScale: s.DeadlineScale,
		WatcherPoll: s.WatcherPoll, QuickDeath: s.QuickDeath,
	}
	for _, t := range s.Tables {
		c.Tables = append(c.Tables, fakeosqueryd.Table(t))
	}
	return c
}

// loadScript finds the script of a binary. The binary may be reached through
// further symbolic links, as when a host switches versions by a link: each
// step of the chain is looked at.
func loadScript(binary string) (Script, string, error) {
	for range 8 {
		dir := filepath.Dir(binary)
		data, err := os.ReadFile(filepath.Join(dir, ScriptName))
		if err == nil {
			var s Script
			if err := json.Unmarshal(data, &s); err != nil {
				return Script{}, "", fmt.Errorf("read %s in %s: %w", ScriptName, dir, err)
			}
			return s, dir, nil
		}
		next, err := os.Readlink(binary)
		if err != nil {
			return Script{}, "", nil
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(dir, next)
		}
		binary = next
	}
	return Script{}, "", nil
}

func writeScript(dir string, s Script) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the script: %w", err)
	}
	return replaceFile(filepath.Join(dir, ScriptName), data)
}

// replaceFile writes a file so that a reader, or a kill at any instant, sees
// the old content or the new one and nothing between.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(data)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
