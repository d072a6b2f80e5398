package plugin

import "github.com/osquery/osquery-go/gen/osquery"

// success is an answer that osqueryd takes as good.
func success(row map[string]string) osquery.ExtensionResponse {
	r := osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 0, Message: "OK"}}
	if row != nil {
		r.Response = osquery.ExtensionPluginResponse{row}
	}
	return r
}

// failure is an answer with status 1.
func failure(message string) osquery.ExtensionResponse {
	return osquery.ExtensionResponse{Status: &osquery.ExtensionStatus{Code: 1, Message: message}}
}
