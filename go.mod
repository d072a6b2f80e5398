module github.com/osqvisor/osqvisor

go 1.26.0

require (
	github.com/Microsoft/go-winio v0.6.2
	github.com/apache/thrift v0.23.0
	github.com/cenkalti/backoff/v4 v4.3.0
	github.com/gofrs/flock v0.13.1
	github.com/google/go-cmp v0.7.0
	github.com/osquery/osquery-go v0.0.0-20260630173615-eb39ad3443df
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/go-logr/logr v1.2.4 // indirect
	github.com/go-logr/stdr v1.2.2 // indirect
	github.com/pkg/errors v0.8.0 // indirect
	go.opentelemetry.io/otel v1.16.0 // indirect
	go.opentelemetry.io/otel/metric v1.16.0 // indirect
	go.opentelemetry.io/otel/trace v1.16.0 // indirect
)
