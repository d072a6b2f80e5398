package extension

import "encoding/json"

// QuerySet is what a QueryBroker returns. Its JSON is that of osquery's remote API.
type QuerySet struct {
	// Queries maps an id, which the results have too, to SQL.
	Queries map[string]string `json:"queries"`
	// Discovery maps ids to SQL; a query runs only if the discovery query of the
	// same id returns rows. Ids without one always run.
	Discovery map[string]string `json:"discovery,omitempty"`
	// AccelerateSeconds makes osqueryd fetch every 5 s for that long; 0 changes nothing.
	AccelerateSeconds int `json:"accelerate,omitempty"`
}

// Result is the answer to one distributed query.
type Result struct {
	ID string `json:"id"`
	// Status is 0 when it ran, else osquery's code.
	Status int `json:"status"`
	// Message is osquery's error text; empty when there is none.
	Message string `json:"message,omitempty"`
	// Rows is the JSON array of rows exactly as osqueryd wrote it.
	Rows json.RawMessage `json:"rows"`
	// Stats is what the query cost; nil when osqueryd did not report it.
	Stats *QueryStats `json:"stats,omitempty"`
}

// QueryStats is what a query cost, as osqueryd measured it.
type QueryStats struct {
	WallTimeMS int64 `json:"wall_time_ms"`
	UserTime   int64 `json:"user_time"`   // milliseconds
	SystemTime int64 `json:"system_time"` // milliseconds
	Memory     int64 `json:"memory"`      // bytes
}
