package runtime

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/stats"
)

func TestRunMayBeCalledAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, f := newFakeRunner(t, lasting)
		if err := r.Add("vendor"); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			stop := running(t, r)
			if err := r.WaitReady(t.Context(), "vendor"); err != nil {
				t.Fatal(err)
			}
			if err := r.Run(t.Context()); !errors.Is(err, ErrRunning) {
				t.Errorf("a second Run: %v, want ErrRunning", err)
			}
			stop()
			if err := r.Restart(t.Context(), "vendor"); err != nil {
				t.Errorf("Restart outside Run: %v", err)
			}
		}
		wantRuns(t, f, 3)
		if err := r.Remove(t.Context(), "vendor"); err != nil {
			t.Fatal(err)
		}
		if len(of[stats.InstanceRemoved](f)) != 1 || !f.made[0].isClosed() {
			t.Error("a removal after Run is not announced, or left the instance open")
		}
		running(t, r)() // zero instances are a valid set
	})
}

func TestTablesOfSetTablesStayThroughUpdate(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		if err := r.SetTables(t.Context(), "vendor", nil, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Update(t.Context(), "vendor", instance.WithEnv("A=1")); err != nil {
			t.Fatal(err)
		}
		if n := f.made[1].tables; n != 2 {
			t.Errorf("the updated instance has %d tables, want the 2 of SetTables", n)
		}
	})
}

// Of two SetTables at the same time one is the last, and an Update brings back no others.
func TestTrial20TablesAfterConcurrentSetTables(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		f.tablesSet = func(n int) {
			if n == 1 { // the first call is slow to return
				<-time.After(time.Second)
			}
		}
		var calls sync.WaitGroup
		for n := 1; n <= 2; n++ {
			calls.Go(func() {
				if err := r.SetTables(t.Context(), "vendor", make([]extension.Table, n)...); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		calls.Wait()
		if _, err := r.Update(t.Context(), "vendor", instance.WithEnv("A=1")); err != nil {
			t.Fatal(err)
		}
		if before, after := f.made[0].tables, f.made[1].tables; before != 2 || after != 2 {
			t.Errorf("%d tables became %d by an Update, want 2 of the second SetTables", before, after)
		}
	})
}

func TestUpdateThatFailsChangesNothing(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		refusal := errors.New("bad option")
		f.setRefuse(refusal)
		if _, err := r.Update(t.Context(), "vendor", instance.WithEnv("A=3")); !errors.Is(err, refusal) {
			t.Fatalf("Update: %v, want what is wrong with the option", err)
		}
		synctest.Wait()
		wantRuns(t, f, 1) // the run was not touched
		f.setRefuse(nil)
		if _, err := r.Update(t.Context(), "vendor", instance.WithEnv("A=3")); err != nil {
			t.Fatal(err)
		}
		if err := r.WaitReady(t.Context(), "vendor"); err != nil {
			t.Fatal(err)
		}
		wantRuns(t, f, 2)
		if last := f.made[len(f.made)-1]; last.opts != 1 {
			t.Errorf("the new instance has %d options, want 1", last.opts)
		}
	})
}

func TestRunWaitsForChangesUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(ctx context.Context, _ int) error {
			<-ctx.Done()
			<-time.After(30 * time.Second)
			return nil
		}
		r, f := newFakeRunner(t, slow)
		for _, id := range []string{"vendor", "tenant"} {
			if err := r.Add(id); err != nil {
				t.Fatal(err)
			}
		}
		stop := running(t, r)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Remove(ctx, "vendor"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Remove: %v, want the context's error", err)
		}
		if _, err := r.Update(ctx, "tenant", instance.WithEnv("A=1")); !errors.Is(err, context.DeadlineExceeded) { // it does not even begin
			t.Fatalf("Update: %v, want the context's error", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.Update(ctx, "tenant", instance.WithEnv("A=1")); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Update: %v, want the context's error", err)
		}
		stop()
		if n := len(of[stats.InstanceRemoved](f)); n != 1 {
			t.Errorf("Run returned with %d removals done, want 1", n)
		}
		if n := len(of[stats.InstanceUpdated](f)); n != 1 {
			t.Errorf("Run returned with %d updates done, want 1", n)
		}
	})
}

func TestOneChangeAtATime(t *testing.T) {
	bubble(t, lasting, func(t *testing.T, r *Runner, f *fakes) {
		var wg sync.WaitGroup
		for n := range 10 {
			wg.Go(func() {
				_, err := r.Update(t.Context(), "vendor", instance.WithEnv("A="+strconv.Itoa(n)))
				if err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := r.Add("vendor"); err != nil && !errors.Is(err, ErrExists) {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := r.Remove(t.Context(), "vendor"); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if err := r.Remove(t.Context(), "vendor"); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatal(err)
		}
		if ids := r.IDs(); len(ids) != 0 {
			t.Errorf("left in the set: %v", ids)
		}
		for i, in := range f.made {
			if !in.isClosed() {
				t.Errorf("instance %d was lost open", i)
			}
		}
	})
}
