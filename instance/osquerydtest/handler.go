package osquerydtest

import (
	"context"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

// handler answers one connection of the manager socket.
type handler struct {
	w    *worker
	conn *faultConn
}

func status(code int32, message string, uuid osquery.ExtensionRouteUUID) *osquery.ExtensionStatus {
	return &osquery.ExtensionStatus{Code: code, Message: message, UUID: uuid}
}

func (h *handler) hold(m gateMode) { h.w.p.gate.wait(m, h.w.p.dead) }

// Ping answers while anything does.
func (h *handler) Ping(context.Context) (*osquery.ExtensionStatus, error) {
	h.hold(gateAll)
	h.w.count.pings.Add(1)
	return status(0, "pong", 0), nil
}

// Shutdown answers and does nothing: so does osqueryd.
func (h *handler) Shutdown(context.Context) error {
	h.hold(gateCalls)
	return nil
}

// Extensions lists those registered, without core.
func (h *handler) Extensions(context.Context) (osquery.InternalExtensionList, error) {
	h.hold(gateCalls)
	out := osquery.InternalExtensionList{}
	for _, e := range h.w.registry.list() {
		info := e.info
		out[e.uuid] = &info
	}
	return out, nil
}

// Options lists the flags.
func (h *handler) Options(context.Context) (osquery.InternalOptionList, error) {
	h.hold(gateCalls)
	out := osquery.InternalOptionList{}
	for _, f := range h.w.p.flags.all() {
		out[f.name] = &osquery.InternalOptionInfo{Value: f.value, DefaultValue: f.def, Type: string(f.kind)}
	}
	return out, nil
}

// RegisterExtension gives a UUID.
func (h *handler) RegisterExtension(
	_ context.Context, info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry,
) (*osquery.ExtensionStatus, error) {
	h.hold(gateCalls)
	v := h.w.p.rules.at(PhaseRegister, info.Name)
	if v.kind == Refuse {
		h.w.count.refused.Add(1)
		return status(1, v.text, 0), nil
	}
	uuid, err := h.w.registry.register(info, reg)
	h.spoil(v)
	if err != nil {
		h.w.count.refused.Add(1)
		return status(1, err.Error(), 0), nil
	}
	h.w.count.registered.Add(1)
	return status(0, "OK", uuid), nil
}

// DeregisterExtension forgets one.
func (h *handler) DeregisterExtension(_ context.Context, uuid osquery.ExtensionRouteUUID) (*osquery.ExtensionStatus, error) {
	h.hold(gateCalls)
	if !h.w.registry.remove(uuid) {
		return status(1, "No extension UUID found", 0), nil
	}
	h.w.count.deregistered.Add(1)
	return status(0, "OK", 0), nil
}

// Call asks a plugin of any registry.
func (h *handler) Call(_ context.Context, reg, item string, req osquery.ExtensionPluginRequest) (*osquery.ExtensionResponse, error) {
	h.hold(gateCalls)
	h.w.count.calls.Add(1)
	v := h.w.p.rules.at(PhaseCall, reg+" "+item)
	if v.kind == Refuse {
		return &osquery.ExtensionResponse{Status: status(1, v.text, 0)}, nil
	}
	res := h.w.registry.call(reg, item, req)
	h.spoil(v)
	out := &osquery.ExtensionResponse{Status: status(res.code, res.message, 0)}
	if res.code == 0 {
		out.Response = res.rows
	}
	return out, nil
}

// Query runs SQL to its end, whatever the client does meanwhile.
func (h *handler) Query(_ context.Context, sql string) (*osquery.ExtensionResponse, error) {
	h.hold(gateCalls)
	defer h.w.count.queryStarts()()
	v := h.w.p.rules.at(PhaseQuery, sql)
	switch v.kind {
	case Refuse:
		return &osquery.ExtensionResponse{Status: status(1, v.text, 0)}, nil
	case Huge:
		return &osquery.ExtensionResponse{Status: status(0, "OK", 0), Response: hugeRows(v.bytes)}, nil
	}
	rows, err := h.w.sql.query(sql)
	h.spoil(v)
	if err != nil {
		return &osquery.ExtensionResponse{Status: status(1, err.Error(), 0)}, nil
	}
	return &osquery.ExtensionResponse{Status: status(0, "OK", 0), Response: rows}, nil
}

// GetQueryColumns looks at the first statement only.
func (h *handler) GetQueryColumns(_ context.Context, sql string) (*osquery.ExtensionResponse, error) {
	h.hold(gateCalls)
	cols, err := h.w.sql.columns(sql)
	if err != nil {
		return &osquery.ExtensionResponse{Status: status(1, err.Error(), 0)}, nil
	}
	var rows osquery.ExtensionPluginResponse
	for _, c := range cols {
		rows = append(rows, map[string]string{c.name: c.kind})
	}
	return &osquery.ExtensionResponse{Status: status(0, "OK", 0), Response: rows}, nil
}

// spoil arms the connection for the answer that comes next.
func (h *handler) spoil(v verdict) {
	switch v.kind {
	case Reset, Rubbish, Truncate:
		h.conn.fault.Store(&v)
	}
}

func hugeRows(n int64) osquery.ExtensionPluginResponse {
	if n <= 0 {
		n = 50 << 20
	}
	return osquery.ExtensionPluginResponse{{"data": strings.Repeat("x", int(n))}}
}
