package remoteapi

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Endpoints are the paths of the API, each beginning with a slash and appended to
// the server's URL. The call of an empty one returns extension.ErrUnsupported. Only Enroll is
// required.
type Endpoints struct {
	Enroll string
	Config string
	Log    string
	Read   string // distributed queries
	Write  string // their results
}

// FleetEndpoints returns Fleet's paths.
func FleetEndpoints() Endpoints {
	return Endpoints{
		Enroll: "/api/osquery/enroll",
		Config: "/api/osquery/config",
		Log:    "/api/osquery/log",
		Read:   "/api/osquery/distributed/read",
		Write:  "/api/osquery/distributed/write",
	}
}

func osctrlEndpoints(environment string) Endpoints {
	prefix := "/" + url.PathEscape(environment)
	return Endpoints{
		Enroll: prefix + "/enroll",
		Config: prefix + "/config",
		Log:    prefix + "/log",
		Read:   prefix + "/read",
		Write:  prefix + "/write",
	}
}

// sgtEndpoints has no path for logs: SGT receives them by other ways than this API.
func sgtEndpoints() Endpoints {
	return Endpoints{
		Enroll: "/node/enroll",
		Config: "/node/configure",
		Read:   "/distributed/read",
		Write:  "/distributed/write",
	}
}

func (e Endpoints) byCall() map[call]string {
	return map[call]string{
		callEnroll: e.Enroll, callConfig: e.Config, callLog: e.Log,
		callRead: e.Read, callWrite: e.Write,
	}
}

// check refuses paths that would not end up below the server's URL.
func (e Endpoints) check() error {
	var errs []error
	if e.Enroll == "" {
		errs = append(errs, errors.New("endpoint enroll is missing: servers of this API identify a node by the key that it returns"))
	}
	paths := e.byCall()
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		path := paths[name]
		if path == "" {
			continue
		}
		if u, err := url.Parse(path); err != nil || !strings.HasPrefix(path, "/") || u.Host != "" || u.Fragment != "" {
			errs = append(errs, fmt.Errorf("endpoint %s %q must be a path that begins with one slash, such as /osquery/log", name, path))
		}
	}
	return errors.Join(errs...)
}

// parseServer accepts a URL or osquery's tls_hostname form, host[:port].
func parseServer(server string, insecure bool) (*url.URL, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	switch {
	case err != nil:
		return nil, fmt.Errorf("server: not a URL; use the form https://host:port")
	case u.User != nil:
		return nil, fmt.Errorf("server: a password in the URL would end up in logs; use WithHeader")
	case u.Host == "" || u.Hostname() == "":
		return nil, fmt.Errorf("server %q has no host; use the form https://host:port", server)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("server %q: a query or fragment has no meaning here", u.Host)
	case u.Scheme == "http" && !insecure:
		return nil, fmt.Errorf("server %q: http sends node keys in the clear; use https, or Quirks.InsecureHTTP in a test", u.Host)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("server %q: scheme %q is not https", u.Host, u.Scheme)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	u.RawPath = strings.TrimRight(u.RawPath, "/")
	return u, nil
}
