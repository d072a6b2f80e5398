package remoteapi

import (
	"fmt"
	"net/http"
	"time"
)

// defaultTimeout is for calls whose context has no deadline.
const defaultTimeout = time.Minute

// WithTimeout bounds a whole call, from dialling to the answer's last byte; from
// 1 ms to 1 hour. By default a call has the time that its context gives it, as each
// call of the extension has, and 1 minute when its context has no deadline.
//
// The extension gives a batch of logs that ran into extension.WithTransportTimeout
// up to eight times as much at its next tries, because what was sent once is not cut
// smaller. A timeout from here takes that time away: on a link that is too slow for
// it, a batch is sent again and again and never arrives.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) error {
		if d < time.Millisecond || d > time.Hour {
			return fmt.Errorf("WithTimeout: %v is not between 1ms and 1h", d)
		}
		s.timeout = d
		return nil
	}
}

// WithMaxRetryAfter bounds what a server's Retry-After can demand; default 1 hour,
// from 1 second to 24 hours.
func WithMaxRetryAfter(d time.Duration) Option {
	return func(s *settings) error {
		if d < time.Second || d > 24*time.Hour {
			return fmt.Errorf("WithMaxRetryAfter: %v is not between 1s and 24h", d)
		}
		s.maxRetryAfter = d
		return nil
	}
}

const maxAnyAnswer = 1 << 30 // bytes; it is held in memory

// WithMaxAnswer bounds the answers to all calls but config, in bytes after
// decompression; default 8 MiB, from 1 to 1 GiB.
func WithMaxAnswer(bytes int64) Option {
	return func(s *settings) error {
		if bytes < 1 || bytes > maxAnyAnswer {
			return fmt.Errorf("WithMaxAnswer: %d is not between 1 and %d bytes", bytes, maxAnyAnswer)
		}
		s.maxAnswer = bytes
		return nil
	}
}

// WithMaxConfig bounds the answer to the config call, in bytes after
// decompression; default 16 MiB, from 1 to 1 GiB.
func WithMaxConfig(bytes int64) Option {
	return func(s *settings) error {
		if bytes < 1 || bytes > maxAnyAnswer {
			return fmt.Errorf("WithMaxConfig: %d is not between 1 and %d bytes", bytes, maxAnyAnswer)
		}
		s.maxConfig = bytes
		return nil
	}
}

// WithPermanentStatus replaces the list of statuses, 413 and 422 by default, that
// mean extension.ErrPermanent when they answer logs, results or carve blocks
// without Retry-After. With none, nothing is permanent. Only 4xx can be: every
// other status says nothing about the data. Whatever the list says, 413 to several
// log lines is extension.ErrTooLarge, and they are sent again in smaller batches.
func WithPermanentStatus(statuses ...int) Option {
	return func(s *settings) error {
		list := map[int]bool{}
		for _, status := range statuses {
			if status < 400 || status > 499 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
				return fmt.Errorf("WithPermanentStatus: %d is not a permanent client error (4xx, not 408 or 429)", status)
			}
			list[status] = true
		}
		s.permanent = list
		return nil
	}
}
