package thriftconn

import (
	"context"
	"errors"
	"fmt"

	"github.com/osquery/osquery-go/gen/osquery"
)

// maxRegisterTries is how often a registration is tried that got UUID 0, which
// stands for osqueryd itself. The chance of one is 1 in 65536.
const maxRegisterTries = 3

func noArgs(b []byte) []byte { return b }

// Extensions lists what is registered, osqueryd itself (UUID 0) included.
func (c *Conn) Extensions(ctx context.Context) (osquery.InternalExtensionList, error) {
	var list osquery.InternalExtensionList
	err := c.call(ctx, methodExtensions, exchange{args: noArgs, result: func(st *callState, typ byte) {
		if st.r.expect("result", typ, typeMap) {
			list = st.r.extensionList()
		}
	}})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// Register announces an extension and returns the UUID that osqueryd chose for
// it: listen at <manager path>.<uuid> next. A refusal is a *StatusError; see
// IsDuplicate and IsDuplicateItem. Two
// registrations at once, on any connections, can make osqueryd lock up: the
// caller must serialise them.
//
// osqueryd may choose 0, which stands for itself. That registration is taken
// back and made again, up to three times.
func (c *Conn) Register(ctx context.Context, name, version string, registry osquery.ExtensionRegistry) (int64, error) {
	args := func(b []byte) []byte { return appendRegister(b, name, version, registry) }
	for range maxRegisterTries {
		status, err := c.statusCall(ctx, methodRegister, args)
		if err != nil {
			return 0, err
		}
		if status.UUID != 0 {
			return int64(status.UUID), nil
		}
		if err := c.Deregister(ctx, 0); err != nil && !IsNotRegistered(err) {
			return 0, fmt.Errorf("take back a registration that got UUID 0: %w", err)
		}
	}
	return 0, errors.New("osqueryd keeps choosing UUID 0, which is its own: register later")
}

// Deregister removes an extension and all its routes; see IsNotRegistered.
func (c *Conn) Deregister(ctx context.Context, uuid int64) error {
	_, err := c.statusCall(ctx, methodDeregister, func(b []byte) []byte {
		return appendI64(appendField(b, typeI64, 1), uuid)
	})
	return err
}

// Call calls a plugin of osqueryd, or of an extension. The status is the
// plugin's own answer, which may well not be 0; an error means that there is
// none. Rows are nil unless the plugin sent some.
func (c *Conn) Call(
	ctx context.Context, registry, item string, request map[string]string,
) (osquery.ExtensionStatus, []map[string]string, error) {
	var status osquery.ExtensionStatus
	var rows []map[string]string
	err := c.call(ctx, methodCall, exchange{
		args: func(b []byte) []byte { return appendCall(b, registry, item, request) },
		result: func(st *callState, typ byte) {
			if st.r.expect("result", typ, typeStruct) {
				status, rows = st.r.response()
			}
		},
	})
	if err != nil {
		return osquery.ExtensionStatus{}, nil, err
	}
	return status, rows, nil
}

// statusCall runs a call whose result is a status; one that is not 0 is a
// *StatusError.
func (c *Conn) statusCall(ctx context.Context, method string, args func([]byte) []byte) (osquery.ExtensionStatus, error) {
	var status osquery.ExtensionStatus
	err := c.call(ctx, method, exchange{args: args, result: func(st *callState, typ byte) {
		if st.r.expect("result", typ, typeStruct) {
			status = st.r.status()
		}
	}})
	if err == nil && status.Code != 0 {
		err = &StatusError{Method: method, Code: status.Code, Message: status.Message}
	}
	return status, err
}

func (r *reader) response() (status osquery.ExtensionStatus, rows []map[string]string) {
	for typ, id := r.field(); typ != typeStop; typ, id = r.field() {
		switch {
		case id == 1 && typ == typeStruct:
			status = r.status()
		case id == 2 && typ == typeList:
			rows = r.stringMaps()
		default:
			r.skip(typ)
		}
	}
	return status, rows
}

func appendCall(b []byte, registry, item string, request map[string]string) []byte {
	b = appendStringField(b, 1, registry)
	b = appendStringField(b, 2, item)
	return appendStringMap(appendField(b, typeMap, 3), request)
}

func appendRegister(b []byte, name, version string, registry osquery.ExtensionRegistry) []byte {
	b = appendField(b, typeStruct, 1)
	b = appendStringField(b, 1, name)
	b = appendStringField(b, 2, version)
	b = appendStringField(b, 3, "") // no SDK version passes osqueryd's check
	b = appendStringField(b, 4, "")
	b = appendStop(b)
	b = appendMapHeader(appendField(b, typeMap, 2), typeString, typeMap, len(registry))
	for kind, table := range registry {
		b = appendMapHeader(appendString(b, kind), typeString, typeList, len(table))
		for item, routes := range table {
			b = appendStringMaps(appendString(b, item), routes)
		}
	}
	return b
}

// callbackError carries an error of a caller's own function through the reader.
type callbackError struct{ err error }

func (e callbackError) Error() string { return e.err.Error() }

// Query runs SQL and returns all rows. SQL that fails is a *StatusError with
// SQLite's message. osqueryd cannot cancel a query: one whose context ends goes
// on there. Use a QueryQueue when more than one query may run.
func (c *Conn) Query(ctx context.Context, sql string) (rows Rows, err error) {
	err = c.call(ctx, methodQuery, rowsExchange(methodQuery, sql, &rows))
	return rows, err
}

// rowsExchange requests rows and stores them in rows.
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

// eachExchange requests rows and calls fn with each while the answer arrives, so
// that never more than about 64 KiB of it are held, or one row if that is
// larger. fn runs in the goroutine of the caller and must not use the
// connection. An error from fn ends the reading, closes the connection unless
// the answer had arrived entirely, and is returned as it is. fn may have been
// called with rows before an error shows.
func eachExchange(method, sql string, fn func(Row) error) exchange {
	var a answer
	return exchange{
		args: func(b []byte) []byte { return appendStringField(b, 1, sql) },
		result: func(st *callState, typ byte) {
			if st.r.expect("result", typ, typeStruct) {
				a = st.r.queryAnswer(&st.rows, func() error { return emitRows(&st.rows, fn) })
			}
		},
		finish: func(st *callState) error {
			if err := a.refusal(method); err != nil {
				return err
			}
			return ownError(emitRows(&st.rows, fn))
		},
	}
}

// emitRows calls fn with the rows gathered so far and forgets them.
func emitRows(b *rowBuilder, fn func(Row) error) error {
	for _, row := range b.rowsOut().All() {
		if err := fn(row); err != nil {
			return callbackError{err}
		}
	}
	b.clearRows()
	return nil
}

// ownError returns a caller's error as it was.
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
