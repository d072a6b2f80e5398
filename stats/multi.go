package stats

import "context"

// Multi makes one Observer of several: each is handed every event, in the order
// given. Nil ones are skipped, and with none left it does nothing. It is as safe
// for concurrent use as they are. When one panics, those after it still get the
// event, and then the panic goes on to the caller.
func Multi(obs ...Observer) Observer {
	m := make(multi, 0, len(obs))
	for _, o := range obs {
		if o != nil {
			m = append(m, o)
		}
	}
	return m
}

type multi []Observer

// Observe is recursive because a deferred call is what runs in spite of a panic
// and leaves its stack as it was.
func (m multi) Observe(ctx context.Context, e Event) {
	if len(m) == 0 {
		return
	}
	defer m[1:].Observe(ctx, e)
	m[0].Observe(ctx, e)
}
