package fakeosqueryd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	dbTries      = 25
	dbRetryDelay = 200 * time.Millisecond
)

// The domains of osqueryd's database that are used here.
const (
	domainSettings    = "configurations"
	domainQueries     = "queries"
	domainPerformance = "query_performance"
	domainDistributed = "distributed"
	domainRunning     = "distributed_running"
)

var knownDomains = []string{
	domainSettings, domainQueries, "events", "logs", "carves", domainDistributed, domainRunning, domainPerformance,
}

// database is a small key-value store in one file, CURRENT, which is rewritten
// whole; rubbish in it is taken for corruption. Without a path it is in
// memory. It is safe for concurrent use.
type database struct {
	mu   sync.Mutex
	path string
	lock *os.File
	data map[string]map[string]string
}

var errCorrupt = errors.New("Corruption: CURRENT file does not end with newline") //nolint:staticcheck // RocksDB's text

// openDatabase tries as long as osqueryd does; the error is its text.
func openDatabase(p *Process) (*database, error) {
	if p.inMemory() {
		return &database{data: map[string]map[string]string{}}, nil
	}
	path := p.flags.str("database_path")
	if err := os.MkdirAll(path, 0o700); err != nil {
		p.log.error("init.cpp:140", "Could not initialize db directory: %s", err)
	}
	var err error
	for range dbTries {
		var db *database
		if db, err = openLocked(p, path); err == nil {
			return db, nil
		}
		code := "5:0"
		if errors.Is(err, errCorrupt) {
			code = "2:0"
		}
		p.log.info("rocksdb.cpp:184", "Rocksdb open failed (%s) %s", code, err)
		if !p.sleep(p.conf.period(dbRetryDelay)) {
			break
		}
	}
	return nil, err
}

// inMemory follows the rule that --ephemeral uses memory unless a path is
// given.
func (p *Process) inMemory() bool {
	if p.flags.bool("disable_database") {
		return true
	}
	return p.flags.bool("ephemeral") && p.flags.isDefault("database_path")
}

func openLocked(p *Process, path string) (*database, error) {
	name := filepath.Join(path, "LOCK")
	lock, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("IO error: While open a file for lock: %s: %s", name, errnoText(err))
	}
	if tryLock(lock) != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("IO error: While lock file: %s: %s", name, lockText)
	}
	db := &database{path: path, lock: lock}
	if db.load() == nil {
		return db, nil
	}
	_ = lock.Close()
	if !backupCorrupt(p, path) {
		return nil, errCorrupt
	}
	return openLocked(p, path)
}

func (db *database) load() error {
	db.data = map[string]map[string]string{}
	raw, err := os.ReadFile(db.current())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || json.Unmarshal(raw, &db.data) != nil {
		return errCorrupt
	}
	return nil
}

// backupCorrupt moves a broken database away, so that a fresh one is made.
func backupCorrupt(p *Process, path string) bool {
	backup := path + ".backup"
	if _, err := os.Stat(backup); err == nil {
		if os.RemoveAll(backup) != nil {
			p.log.error("rocksdb.cpp:280", "Cannot remove previous RocksDB database backup: %s", backup)
			return false
		}
		p.log.warn("rocksdb.cpp:284", "Removed previous RocksDB database backup: %s", backup)
	}
	if os.Rename(path, backup) != nil {
		p.log.error("rocksdb.cpp:291", "Cannot backup the RocksDB database: %s", backup)
		return false
	}
	p.log.warn("rocksdb.cpp:289", "Backing up RocksDB database: %s", backup)
	p.log.warn("rocksdb.cpp:296", "Destroying RocksDB database due to corruption")
	return os.MkdirAll(path, 0o700) == nil
}

func (db *database) current() string { return filepath.Join(db.path, "CURRENT") }

func (db *database) get(domain, key string) (string, bool) {
	db.mu.Lock()
	defer db.mu.Unlock()
	v, ok := db.data[domain][key]
	return v, ok
}

// put stores pairs of key and value at once.
func (db *database) put(domain string, pairs ...string) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.data[domain] == nil {
		db.data[domain] = map[string]string{}
	}
	changed := false
	for i := 0; i+1 < len(pairs); i += 2 {
		old, had := db.data[domain][pairs[i]]
		changed = changed || !had || old != pairs[i+1]
		db.data[domain][pairs[i]] = pairs[i+1]
	}
	return db.save(changed)
}

func (db *database) remove(domain string, keys ...string) error {
	db.mu.Lock()
	defer db.mu.Unlock()
	n := len(db.data[domain])
	for _, k := range keys {
		delete(db.data[domain], k)
	}
	return db.save(n != len(db.data[domain]))
}

// keys are sorted.
func (db *database) keys(domain, prefix string) []string {
	db.mu.Lock()
	defer db.mu.Unlock()
	var out []string
	for k := range db.data[domain] {
		if strings.HasPrefix(k, prefix) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func (db *database) save(changed bool) error {
	if db.path == "" || !changed {
		return nil
	}
	raw, err := json.Marshal(db.data)
	if err != nil {
		return fmt.Errorf("encode the database: %w", err)
	}
	return replaceFile(db.current(), raw)
}

func (db *database) close() {
	if db != nil && db.lock != nil {
		_ = db.lock.Close()
	}
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
