package extension

import (
	"context"

	"github.com/osquery/osquery-go/gen/osquery"
)

// Table is a table of the host: what osquery-go calls a plugin, of the registry
// "table". A *table.Plugin of osquery-go is one. Call may be called from several
// goroutines at once; it must return when its context ends. A panic in a method
// is caught: it fails that one query. Shutdown is never called: a value may be
// shared and outlive an instance.
type Table interface {
	Name() string
	RegistryName() string
	Routes() osquery.ExtensionPluginResponse
	Ping() osquery.ExtensionStatus
	Call(context.Context, osquery.ExtensionPluginRequest) osquery.ExtensionResponse
	Shutdown()
}
