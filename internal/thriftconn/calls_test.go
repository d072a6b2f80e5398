package thriftconn

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/osquery/osquery-go/gen/osquery"

	"github.com/osqvisor/osqvisor/internal/testhelp"
)

func TestControlCallsAgainstGeneratedProcessor(t *testing.T) {
	testhelp.CheckLeaks(t)
	ctx := testhelp.Context(t)
	c := dialFake(t, &fakeManager{})
	if err := ping(ctx, c); err != nil {
		t.Fatal(err)
	}
	list, err := c.Extensions(ctx)
	want := osquery.InternalExtensionList{
		0:  {Name: "core", Version: "5.23.0", SdkVersion: "0.0.0", MinSdkVersion: "0.0.0"},
		42: {Name: "ours", Version: "1.2.3"},
	}
	if d := cmp.Diff(want, list); d != "" || err != nil {
		t.Fatalf("extensions: %v\n%s", err, d)
	}
}

func TestCallReturnsThePluginsStatus(t *testing.T) {
	testhelp.CheckLeaks(t)
	ctx := testhelp.Context(t)
	c := dialFake(t, &fakeManager{})
	status, rows, err := c.Call(ctx, "config", "update", map[string]string{"action": "update"})
	if err != nil || status.Code != 7 || status.Message != "seven" || status.UUID != 9 {
		t.Fatalf("status %v, error %v", status, err)
	}
	want := []map[string]string{{"registry": "config", "item": "update", "request.action": "update"}}
	if d := cmp.Diff(want, rows); d != "" {
		t.Fatal(d)
	}
}

func TestThrownExceptionLeavesTheConnectionUsable(t *testing.T) {
	testhelp.CheckLeaks(t)
	ctx := testhelp.Context(t)
	c := dialFake(t, &fakeManager{})
	_, _, err := c.Call(ctx, "throw", "", nil)
	var app *ApplicationError
	if !errors.As(err, &app) || app.Method != methodCall {
		t.Fatalf("got %v instead of an application error", err)
	}
	if err := ping(ctx, c); err != nil {
		t.Fatal(err)
	}
}

func TestRegister(t *testing.T) {
	testhelp.CheckLeaks(t)
	ctx := testhelp.Context(t)
	registry := osquery.ExtensionRegistry{
		"logger": {"mine": {}},
		"table":  {"t": {{"id": "column", "name": "c", "type": "TEXT", "op": "0"}}},
	}
	f := &fakeManager{register: func(info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry) *osquery.ExtensionStatus {
		if info.Name != "ours" || info.Version != "1.0" || info.SdkVersion != "" || !cmp.Equal(reg, registry) {
			return &osquery.ExtensionStatus{Code: 1, Message: "decoded wrongly"}
		}
		return &osquery.ExtensionStatus{UUID: 4711}
	}}
	c := dialFake(t, f)
	uuid, err := c.Register(ctx, "ours", "1.0", registry)
	if uuid != 4711 || err != nil {
		t.Fatalf("uuid %d, error %v", uuid, err)
	}
	if err := c.Deregister(ctx, uuid); err != nil || f.deregistered[0] != 4711 {
		t.Fatalf("deregistered %v, error %v", f.deregistered, err)
	}
	if err := c.Deregister(ctx, 404); !IsNotRegistered(err) {
		t.Fatalf("got %v", err)
	}
}

func TestRegisterTakesBackUUIDZero(t *testing.T) {
	testhelp.CheckLeaks(t)
	uuids := []osquery.ExtensionRouteUUID{0, 0, 5}
	f := &fakeManager{register: func(*osquery.InternalExtensionInfo, osquery.ExtensionRegistry) *osquery.ExtensionStatus {
		uuid := uuids[0]
		uuids = uuids[1:]
		return &osquery.ExtensionStatus{UUID: uuid}
	}}
	uuid, err := dialFake(t, f).Register(testhelp.Context(t), "ours", "1", nil)
	if uuid != 5 || err != nil {
		t.Fatalf("uuid %d, error %v", uuid, err)
	}
	if d := cmp.Diff([]osquery.ExtensionRouteUUID{0, 0}, f.deregistered); d != "" {
		t.Fatal(d)
	}
}

func TestRegisterRefusals(t *testing.T) {
	testhelp.CheckLeaks(t)
	cases := map[string]string{
		"Duplicate extension registered": "extension",
		"Failed adding registry: Registry item t conflicts with another item of the same name.": "item",
		"Failed adding registry: Duplicate registry item: t":                                    "item", // osqueryd 5.5
		"Failed adding registry: Unknown registry: t":                                           "",
	}
	message := ""
	c := dialFake(t, &fakeManager{register: func(*osquery.InternalExtensionInfo, osquery.ExtensionRegistry) *osquery.ExtensionStatus {
		return &osquery.ExtensionStatus{Code: 1, Message: message}
	}})
	for text, want := range cases {
		message = text
		_, err := c.Register(testhelp.Context(t), "x", "1", nil)
		if got := IsDuplicate(err); got != (want == "extension") {
			t.Errorf("IsDuplicate(%v) is %t", err, got)
		}
		if got := IsDuplicateItem(err); got != (want == "item") {
			t.Errorf("IsDuplicateItem(%v) is %t", err, got)
		}
	}
	if err := ping(testhelp.Context(t), c); err != nil {
		t.Fatalf("a refusal broke the connection: %v", err)
	}
}
