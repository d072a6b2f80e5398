package thriftconn

import (
	"context"
	"errors"
)

// callbackError carries an error of a caller's own function through the reader.
type callbackError struct{ err error }

func (e callbackError) Error() string { return e.err.Error() }

// Query runs SQL and gives all rows. SQL that fails is a *StatusError with
// SQLite's message. osqueryd cannot cancel a query: one that is given up goes
// on there. Use a QueryQueue when more than one query may run.
func (c *Conn) Query(ctx context.Context, sql string) (Rows, error) {
	return c.rowsCall(ctx, methodQuery, sql)
}

// QueryColumns gives the columns and types of the first statement in SQL, one
// row each, without running it.
func (c *Conn) QueryColumns(ctx context.Context, sql string) (Rows, error) {
	return c.rowsCall(ctx, methodColumns, sql)
}

// QueryEach runs SQL and calls fn with each row while the answer arrives, so
// that never more than about 64 KiB of it are held, or one row if that is
// larger. fn runs in the goroutine of the caller and must not use the
// connection. An error from fn ends the reading, closes the connection unless
// the answer had arrived entirely, and is returned as it is. Rows may have been
// handed out before an error shows.
func (c *Conn) QueryEach(ctx context.Context, sql string, fn func(Row) error) error {
	return c.call(ctx, methodQuery, eachExchange(methodQuery, sql, fn))
}

func (c *Conn) rowsCall(ctx context.Context, method, sql string) (rows Rows, err error) {
	err = c.call(ctx, method, rowsExchange(method, sql, &rows))
	return rows, err
}

// rowsExchange asks for rows and puts them into rows.
func rowsExchange(method, sql string, rows *Rows) exchange {
	var a answer
	return exchange{
		args: func(b []byte) []byte { return appendStringField(b, 1, sql) },
		result: func(st *callState, typ byte) {
			if st.r.expect("result", typ, typeStruct) {
				a = st.r.queryAnswer(&st.rows, nil)
			}
		},
		finish: func(st *callState) error {
			if err := a.refusal(method); err != nil {
				return err
			}
			*rows = st.rows.rowsOut()
			return nil
		},
	}
}

// eachExchange asks for rows and hands them to fn as they arrive.
func eachExchange(method, sql string, fn func(Row) error) exchange {
	var a answer
	return exchange{
		args: func(b []byte) []byte { return appendStringField(b, 1, sql) },
		result: func(st *callState, typ byte) {
			if st.r.expect("result", typ, typeStruct) {
				a = st.r.queryAnswer(&st.rows, func() error { return handOut(&st.rows, fn) })
			}
		},
		finish: func(st *callState) error {
			if err := a.refusal(method); err != nil {
				return err
			}
			return ownError(handOut(&st.rows, fn))
		},
	}
}

// handOut gives the rows gathered so far to fn and forgets them.
func handOut(b *rowBuilder, fn func(Row) error) error {
	for _, row := range b.rowsOut().All() {
		if err := fn(row); err != nil {
			return callbackError{err}
		}
	}
	b.clearRows()
	return nil
}

// ownError gives a caller's error back as it was.
func ownError(err error) error {
	var own callbackError
	if errors.As(err, &own) {
		return own.err
	}
	return err
}

func (a answer) refusal(method string) error {
	if a.code == 0 {
		return nil
	}
	return &StatusError{Method: method, Code: a.code, Message: a.message}
}
