package spool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkAppend adds lines of 300 B under each policy with 1 and 8 writers, next to the floor: a bare write and flush.
func BenchmarkAppend(b *testing.B) {
	b.Run("floor/write", func(b *testing.B) { benchFloor(b, false) })
	b.Run("floor/write+sync", func(b *testing.B) { benchFloor(b, true) })
	policies := []struct {
		name string
		p    SyncPolicy
	}{{"never", SyncNever()}, {"interval", SyncInterval(time.Second)}, {"each", SyncEach()}}
	for _, p := range policies {
		for _, writers := range []int{1, 8} {
			b.Run(fmt.Sprintf("%s/%d", p.name, writers), func(b *testing.B) { benchAppend(b, p.p, writers) })
		}
	}
}

func benchFloor(b *testing.B, flush bool) {
	b.Helper()
	f, err := osFS{}.Open(filepath.Join(b.TempDir(), "floor"), os.O_CREATE|os.O_RDWR)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	line := make([]byte, 300)
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		if _, err := f.WriteAt(line, i*300); err != nil {
			b.Fatal(err)
		}
		if !flush {
			continue
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

func benchAppend(b *testing.B, p SyncPolicy, writers int) {
	b.Helper()
	q, _ := mustOpen(b, b.TempDir(), Options{MaxBytes: 64 << 20, Sync: p})
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			line := make([]byte, 300)
			for i := w; i < b.N; i += writers {
				if _, err := q.Append(line); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
	if n := q.Stats().Syncs; n > 0 {
		b.ReportMetric(float64(b.N)/float64(n), "lines/sync")
	}
}

// BenchmarkShip reads and acknowledges batches of 1 MB of lines of 300 B.
func BenchmarkShip(b *testing.B) {
	q, _ := mustOpen(b, b.TempDir(), Options{MaxBytes: 64 << 20, Sync: SyncNever()})
	line := make([]byte, 300)
	for b.Loop() {
		b.StopTimer()
		for range 3000 {
			if _, err := q.Append(line); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		for {
			batch, err := q.Read(0, 0, 1<<20)
			if err != nil {
				b.Fatal(err)
			}
			if batch.Last == 0 {
				break
			}
			if err := q.Ack(batch.Last); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(3000*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}

// BenchmarkEachAgainstFloor takes turns, line by line, so that both meet the same disk: floor/ours of the medians.
func BenchmarkEachAgainstFloor(b *testing.B) {
	f, err := osFS{}.Open(filepath.Join(b.TempDir(), "floor"), os.O_CREATE|os.O_RDWR)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	q, _ := mustOpen(b, b.TempDir(), Options{Sync: SyncEach()})
	line := make([]byte, 300)
	var floor, ours []time.Duration
	for i := int64(0); b.Loop(); i++ {
		t0 := time.Now()
		_, err1 := f.WriteAt(line, i*300)
		err2 := f.Sync()
		t1 := time.Now()
		_, err3 := q.Append(line)
		if err := errors.Join(err1, err2, err3); err != nil {
			b.Fatal(err)
		}
		floor, ours = append(floor, t1.Sub(t0)), append(ours, time.Since(t1))
	}
	slices.Sort(floor)
	slices.Sort(ours)
	m := len(ours) / 2
	b.ReportMetric(float64(ours[m].Nanoseconds()), "ours-ns")
	b.ReportMetric(float64(floor[m].Nanoseconds()), "floor-ns")
	b.ReportMetric(float64(floor[m])/float64(ours[m]), "floor/ours")
}
