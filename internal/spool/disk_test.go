package spool

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"sync"
	"testing"
	"time"
)

const (
	hour       = time.Hour // an interval that never ends in a test
	sectorSize = 512
	diskTop    = "/top" // was there before the program
	diskDir    = diskTop + "/root/instance/queue"
)

var errDead = errors.New("the process is dead")

// disk is a simulated disk under the page cache of a simulated system. What a process writes is in the cache, which a kill
// leaves alone. A power cut leaves of a file what was flushed, and of the rest any of its sectors, old or new, each on its
// own; of a directory what was flushed, and any of the names that were made or removed since.
type disk struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	dirs    map[string]*names
	locked  map[*inode]bool
	dead    bool
	killIn  int                          // mutating calls until the process is killed; 0: never
	trap    func(call, name string) bool // kills the process before a call
	after   func(call, name string) bool // kills the process after a call
	rot     bool                         // a sector of the cursor that is being written may become rubbish
	rotten  bool                         // the last power cut did that
	harmful bool                         // the next power cut loses what it may, and keeps what was removed away
}

type names struct{ cache, disk map[string]*inode }

type inode struct {
	dir         bool
	cache, disk []byte
	dirty       map[int64]bool // sectors
}

func newDisk(seed uint64) *disk {
	d := &disk{rnd: rand.New(rand.NewPCG(seed, 7)), dirs: map[string]*names{}, locked: map[*inode]bool{}}
	d.dirs[diskTop] = &names{map[string]*inode{}, map[string]*inode{}}
	return d
}

// onDisk returns options for a queue on d.
func onDisk(d *disk, p SyncPolicy) Options {
	o := small()
	o.fs, o.Sync, o.Parents = d, p, 3
	return o
}

// flushDirs makes every name survive.
func (d *disk) flushDirs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, in := range d.dirs {
		in.disk = maps.Clone(in.cache)
	}
}

// kill ends the process; what it wrote stays.
func (d *disk) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

// restart lets the next process in.
func (d *disk) restart() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead, d.killIn, d.trap, d.after = false, 0, nil, nil
	clear(d.locked)
}

func (d *disk) isDead() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// step begins a mutating call: false if the process is dead, and last if it dies in it.
func (d *disk) step(call, name string) (alive, last bool) {
	if d.dead {
		return false, false
	}
	if d.trap != nil && d.trap(call, path.Base(name)) {
		d.dead = true
		return false, false
	}
	if d.after != nil && d.after(call, path.Base(name)) {
		d.dead = true
	}
	if d.killIn > 0 {
		if d.killIn--; d.killIn == 0 {
			d.dead = true
			return true, true
		}
	}
	return true, false
}

func (d *disk) MakeDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if alive, _ := d.step("mkdir", dir); !alive {
		return errDead
	}
	d.makeDir(dir)
	return nil
}

func (d *disk) makeDir(dir string) {
	if d.dirs[dir] != nil {
		return
	}
	d.makeDir(path.Dir(dir))
	d.dirs[path.Dir(dir)].cache[path.Base(dir)] = &inode{dir: true}
	d.dirs[dir] = &names{map[string]*inode{}, map[string]*inode{}}
}

func (d *disk) List(dir string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return nil, errDead
	}
	return slices.Collect(maps.Keys(d.dirs[dir].cache)), nil
}

func (d *disk) Open(name string, flag int) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open(name, flag)
}

func (d *disk) open(name string, flag int) (*diskFile, error) {
	in := d.dirs[path.Dir(name)]
	if d.dead {
		return nil, errDead
	}
	if in == nil {
		return nil, fs.ErrNotExist
	}
	n := in.cache[path.Base(name)]
	switch {
	case n != nil && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case n == nil && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case n == nil:
		if alive, _ := d.step("create", name); !alive {
			return nil, errDead
		}
		n = &inode{dirty: map[int64]bool{}}
		in.cache[path.Base(name)] = n
	}
	return &diskFile{d, n, path.Base(name)}, nil
}

func (d *disk) OpenLocked(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.open(name, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if d.locked[f.n] {
		return nil, ErrLocked
	}
	d.locked[f.n] = true
	return &lockedDiskFile{f}, nil
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if alive, _ := d.step("remove", name); !alive {
		return errDead
	}
	delete(d.dirs[path.Dir(name)].cache, path.Base(name))
	return nil
}

func (d *disk) SyncDir(dir string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	alive, last := d.step("syncdir", dir)
	in := d.dirs[dir]
	if !alive || in == nil {
		return errDead
	}
	if !last || d.rnd.IntN(2) == 0 {
		in.disk = maps.Clone(in.cache)
	}
	if last {
		return errDead
	}
	return nil
}

// cut ends the process and the power.
func (d *disk) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead, d.rotten = true, false
	seen := map[*inode]bool{}
	for _, dir := range slices.Sorted(maps.Keys(d.dirs)) {
		in := d.dirs[dir]
		if in == nil { // a directory above it is gone
			continue
		}
		d.cutNames(dir, in)
		for _, name := range slices.Sorted(maps.Keys(in.cache)) {
			if n := in.cache[name]; !n.dir && !seen[n] {
				seen[n] = true
				d.cutFile(name, n)
			}
		}
	}
}

// lose reports whether the power cut takes something that was not flushed.
func (d *disk) lose() bool { return d.harmful || d.rnd.IntN(2) == 0 }

func (d *disk) cutNames(dir string, in *names) {
	after := maps.Clone(in.disk)
	for _, name := range slices.Sorted(maps.Keys(in.cache)) {
		if in.disk[name] == nil && !d.lose() {
			after[name] = in.cache[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.disk)) {
		if in.cache[name] == nil && (d.harmful || d.lose()) {
			delete(after, name)
		}
	}
	for name, n := range in.cache {
		if n.dir && after[name] == nil {
			d.forget(path.Join(dir, name))
		}
	}
	in.cache, in.disk = after, maps.Clone(after)
}

func (d *disk) forget(dir string) {
	for below := range d.dirs {
		if below == dir || len(below) > len(dir) && below[:len(dir)+1] == dir+"/" {
			delete(d.dirs, below)
		}
	}
}

func (d *disk) cutFile(name string, n *inode) {
	size := len(n.disk)
	switch {
	case !d.lose():
		size = len(n.cache)
	case len(n.cache) > size && !d.harmful:
		size += d.rnd.IntN(len(n.cache) - size + 1)
	}
	after := make([]byte, size)
	copy(after, n.disk)
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		from, to := min(int(s)*sectorSize, size), min(int(s+1)*sectorSize, size)
		switch {
		case d.rot && name == cursorName && from < to && d.rnd.IntN(10) == 0:
			d.rotten = true
			for i := range after[from:to] {
				after[from+i] = byte(d.rnd.Uint32())
			}
		case !d.lose():
			clear(after[from:to])
			copy(after[from:to], n.cache[min(from, len(n.cache)):])
		}
	}
	n.cache, n.disk = after, bytes.Clone(after)
	clear(n.dirty)
}

type diskFile struct {
	d    *disk
	n    *inode
	name string
}

type lockedDiskFile struct{ *diskFile }

func (f *lockedDiskFile) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	delete(f.d.locked, f.n)
	return nil
}

func (f *diskFile) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.dead {
		return 0, errDead
	}
	if off >= int64(len(f.n.cache)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.cache[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *diskFile) WriteAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	alive, last := f.d.step("write", f.name)
	if !alive {
		return 0, errDead
	}
	if last && f.name != cursorName {
		p = p[:f.d.rnd.IntN(len(p)+1)]
	}
	if end := int(off) + len(p); end > len(f.n.cache) {
		f.n.cache = append(f.n.cache, make([]byte, end-len(f.n.cache))...)
	}
	copy(f.n.cache[off:], p)
	for s := off / sectorSize; s*sectorSize < off+int64(len(p)); s++ {
		f.n.dirty[s] = true
	}
	if last {
		return len(p), errDead
	}
	return len(p), nil
}

func (f *diskFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if alive, _ := f.d.step("truncate", f.name); !alive {
		return errDead
	}
	f.n.cache = bytes.Clone(f.n.cache[:size])
	return nil
}

func (f *diskFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	alive, last := f.d.step("sync", f.name)
	if !alive {
		return errDead
	}
	if !last || f.d.rnd.IntN(2) == 0 {
		f.n.disk = bytes.Clone(f.n.cache)
		clear(f.n.dirty)
	}
	if last {
		return errDead
	}
	return nil
}

func (f *diskFile) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.dead {
		return 0, errDead
	}
	return int64(len(f.n.cache)), nil
}

func (f *diskFile) Close() error { return nil }

// The simulation itself: what was flushed stays, and what was not can go.
func TestDiskOfTheCrashModel(t *testing.T) {
	lost, kept := 0, 0
	for seed := range uint64(40) {
		d := newDisk(seed)
		if err := d.MakeDir(diskDir); err != nil {
			t.Fatal(err)
		}
		f, err := d.Open(path.Join(diskDir, "f"), os.O_CREATE|os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		old, fresh := bytes.Repeat([]byte{1}, 2*sectorSize), bytes.Repeat([]byte{2}, sectorSize)
		_, _ = f.WriteAt(old, 0)
		d.flushDirs()
		if err = f.Sync(); err != nil {
			t.Fatal(err)
		}
		_, _ = f.WriteAt(fresh, sectorSize)
		d.cut()
		d.restart()
		f, err = d.Open(path.Join(diskDir, "f"), os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2*sectorSize)
		if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got[:sectorSize], old[:sectorSize]) {
			t.Fatalf("what was flushed is gone: %v", err)
		}
		if bytes.Equal(got[sectorSize:], fresh) {
			kept++
		} else {
			lost++
		}
	}
	if lost == 0 || kept == 0 {
		t.Fatalf("%d sectors lost and %d kept", lost, kept)
	}
}
