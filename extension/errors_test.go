package extension

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStatusErrorTellsWhatAStatusMeans(t *testing.T) {
	const date = "Fri, 02 Jan 2026 03:04:05 GMT"
	for name, c := range map[string]struct {
		code   int
		header http.Header
		is     error
		wait   time.Duration
	}{
		"unknown key":               {401, nil, ErrNodeInvalid, 0},
		"forbidden":                 {403, nil, nil, 0},
		"malformed":                 {400, nil, ErrPermanent, 0},
		"media type":                {415, nil, ErrPermanent, 0},
		"unprocessable":             {422, nil, ErrPermanent, 0},
		"too large":                 {413, nil, ErrTooLarge, 0},
		"wrong address":             {404, nil, nil, 0},
		"wrong method":              {405, nil, nil, 0},
		"gone":                      {410, nil, nil, 0},
		"redirect":                  {302, nil, nil, 0},
		"own status":                {599, nil, nil, 0},
		"busy":                      {503, nil, nil, 0},
		"busy for a while":          {503, http.Header{"Retry-After": {"7"}}, nil, 7 * time.Second},
		"too many":                  {429, http.Header{"Retry-After": {" 60 "}}, nil, time.Minute},
		"too large for now":         {413, http.Header{"Retry-After": {"1"}}, nil, time.Second},
		"a date by the own clock":   {503, http.Header{"Retry-After": {"Fri, 02 Jan 2026 03:05:05 GMT"}, "Date": {date}}, nil, time.Minute},
		"a date that is over":       {503, http.Header{"Retry-After": {"Thu, 01 Jan 2026 00:00:00 GMT"}, "Date": {date}}, nil, 0},
		"a wait that is no number":  {503, http.Header{"Retry-After": {"soon"}}, nil, 0},
		"a wait that is negative":   {503, http.Header{"Retry-After": {"-1"}}, nil, 0},
		"a permanent one that asks": {422, http.Header{"Retry-After": {"5"}}, nil, 5 * time.Second},
	} {
		err := StatusError(c.code, c.header, " no such table\n")
		if err == nil || !strings.Contains(err.Error(), ": no such table") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, verdict := range []error{ErrNodeInvalid, ErrPermanent, ErrTooLarge, ErrUnsupported} {
			if errors.Is(err, verdict) != errors.Is(c.is, verdict) {
				t.Errorf("%s is %v: %v", name, verdict, errors.Is(err, verdict))
			}
		}
		var later *RetryAfterError
		if errors.As(err, &later) != (c.wait > 0) || c.wait > 0 && later.After != c.wait {
			t.Errorf("%s: %v, want a wait of %v", name, err, c.wait)
		}
	}
	for _, code := range []int{200, 202, 204, 299} {
		if err := StatusError(code, nil, "fine"); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
}

func FuzzRetryAfter(f *testing.F) {
	for _, seed := range []string{"", "7", "-1", "1e3", " 8 ", "Fri, 02 Jan 2026 03:05:05 GMT", "99999999999999999999"} {
		f.Add(seed, "Fri, 02 Jan 2026 03:04:05 GMT")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		if d := retryAfterHeader(http.Header{"Retry-After": {value}, "Date": {date}}); d < 0 {
			t.Fatalf("%q at %q: %v", value, date, d)
		}
	})
}
