package extension

import "context"

// Funcs is a [Transport] made of functions. Those that are nil are not supported:
// without ConfigFunc osqueryd gets an empty config, without LogsFunc lines are
// discarded, without QueriesFunc there are no distributed queries. The zero value
// is a Transport that does nothing.
type Funcs struct {
	ConfigFunc  func(ctx context.Context, node Node) (map[string]string, error)
	LogsFunc    func(ctx context.Context, node Node, batch Batch) error
	QueriesFunc func(ctx context.Context, node Node) (QuerySet, error)
	ResultsFunc func(ctx context.Context, node Node, results []Result) error
}

// Config calls ConfigFunc.
func (f Funcs) Config(ctx context.Context, node Node) (map[string]string, error) {
	if f.ConfigFunc == nil {
		return nil, ErrUnsupported
	}
	return f.ConfigFunc(ctx, node)
}

// PublishLogs calls LogsFunc.
func (f Funcs) PublishLogs(ctx context.Context, node Node, batch Batch) error {
	if f.LogsFunc == nil {
		return ErrUnsupported
	}
	return f.LogsFunc(ctx, node, batch)
}

// Queries calls QueriesFunc.
func (f Funcs) Queries(ctx context.Context, node Node) (QuerySet, error) {
	if f.QueriesFunc == nil {
		return QuerySet{}, ErrUnsupported
	}
	return f.QueriesFunc(ctx, node)
}

// WriteResults calls ResultsFunc.
func (f Funcs) WriteResults(ctx context.Context, node Node, results []Result) error {
	if f.ResultsFunc == nil {
		return ErrUnsupported
	}
	return f.ResultsFunc(ctx, node, results)
}
