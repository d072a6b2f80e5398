package instance_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/osqvisor/osqvisor/instance"
	"github.com/osqvisor/osqvisor/instance/osquerydtest"
)

type base struct {
	PID int `osquery:"pid"`
}

type process struct {
	base

	Name     string
	ParentID *int64 `osquery:"parent"`
	Root     bool
	Load     float32
	Started  time.Time `osquery:"start_time"`
	Addr     netip.Addr
	Raw      []byte
	Small    uint8
	Ignored  chan int `osquery:"-"`
}

const processRow = `select 7 as pid, 'init' as name, '' as parent, 1 as root, '0.5' as load, 60 as start_time,
	'127.0.0.1' as addr, 'x' as raw, '' as small`

func rowsOf(t *testing.T, sql string) instance.Rows {
	t.Helper()
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path())
	t.Cleanup(func() { r.end(t) })
	rows, err := r.Query(patient(t), sql)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestCollectRows(t *testing.T) {
	t.Parallel()
	rows := rowsOf(t, processRow)
	got, err := instance.CollectRows[process](rows)
	if err != nil {
		t.Fatal(err)
	}
	want := process{
		base: base{PID: 7}, Name: "init", Root: true, Load: 0.5, Started: time.Unix(60, 0),
		Addr: netip.MustParseAddr("127.0.0.1"), Raw: []byte("x"),
	}
	equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff([]process{want}, got, cmp.AllowUnexported(process{}, base{}), equal); diff != "" {
		t.Error(diff)
	}
	one, err := instance.CollectRow[base](rows.Row(0))
	if err != nil || one.PID != 7 {
		t.Error(one, err)
	}
	for name, collect := range map[string]func() error{
		`column "name" to field N: "init" is not int: invalid syntax`: func() error {
			_, err := instance.CollectRows[struct {
				N int `osquery:"name"`
			}](rows)
			return err
		},
		`column "start_time" to field N: "60" is not`: func() error {
			_, err := instance.CollectRows[struct {
				N bool `osquery:"start_time"`
			}](rows)
			return err
		},
		`column "nothing" to field N: the answer has no such column`: func() error {
			_, err := instance.CollectRow[struct {
				N string `osquery:"nothing"`
			}](rows.Row(0))
			return err
		},
	} {
		var collectErr *instance.CollectError
		if err := collect(); !errors.As(err, &collectErr) || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got: %v", name, err)
		}
	}
}

func TestCollectRowsRefusesWhatCannotHoldARow(t *testing.T) {
	t.Parallel()
	if _, err := instance.CollectRows[int](instance.Rows{}); err == nil {
		t.Error("an int was accepted")
	}
	if _, err := instance.CollectRows[struct{ C chan int }](instance.Rows{}); err == nil {
		t.Error("a channel was accepted")
	}
	if _, err := instance.CollectRows[struct {
		c int `osquery:"c"`
	}](instance.Rows{}); err == nil {
		t.Error("a field that cannot be set was accepted")
	}
}

func TestRowsAsJSON(t *testing.T) {
	t.Parallel()
	rows := rowsOf(t, `select 'a"b' as x, 1 as y`)
	text, err := json.Marshal(rows)
	if err != nil || string(text) != `[{"x":"a\"b","y":"1"}]` {
		t.Errorf("%s, %v", text, err)
	}
	if text, err := json.Marshal(instance.Rows{}); err != nil || string(text) != `[]` {
		t.Errorf("no rows: %s, %v", text, err)
	}
	text, err = json.Marshal(struct{ Row instance.Row }{rows.Row(0)})
	if err != nil || string(text) != `{"Row":{"x":"a\"b","y":"1"}}` {
		t.Errorf("%s, %v", text, err)
	}
}

// The error of a query that is given up tells whether osqueryd had it.
func TestErrorsOfQueriesThatAreGivenUp(t *testing.T) {
	t.Parallel()
	r := start(t, osquerydtest.Start(t, osquerydtest.WithScript(fast)).Path())
	defer r.end(t)
	ctx, cancel := context.WithCancel(patient(t))
	running := make(chan error, 1)
	sent := make(chan struct{})
	go func() {
		first := true
		running <- r.QueryEach(ctx, "select 1 as one", func(instance.Row) error {
			if first {
				close(sent)
				first = false
			}
			<-ctx.Done()
			return nil
		})
	}()
	<-sent
	waiting, stop := context.WithCancel(patient(t))
	stop()
	if _, err := r.Query(waiting, "select 2"); !errors.Is(err, instance.ErrQueryWaiting) || !errors.Is(err, context.Canceled) {
		t.Error("waiting:", err)
	}
	cancel()
	if err := <-running; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_, err := r.Query(patient(t), "select nothing from nowhere")
	var refused *instance.QueryError
	if !errors.As(err, &refused) || refused.Code == 0 || !strings.Contains(refused.Message, "no such table") {
		t.Error("refused:", err)
	}
	own := errors.New("own")
	if err := r.QueryEach(patient(t), "select 1", func(instance.Row) error { return own }); err != own { //nolint:errorlint // as it is
		t.Error("own:", err)
	}
}
