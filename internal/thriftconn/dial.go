package thriftconn

import (
	"context"
	"net"
	"time"
)

const (
	// dialTimeout bounds one try to connect, whatever the context allows.
	dialTimeout = 5 * time.Second
	minDialWait = time.Millisecond
	maxDialWait = 25 * time.Millisecond
	// dialWaitShare keeps what waiting adds to the time until a socket answers
	// to about 3 %.
	dialWaitShare = 32
)

// Dial connects to osqueryd's manager socket, or an extension's, at path; one
// try, of at most 5 s. It fails with a *DialError.
func Dial(ctx context.Context, path string, opts ...Option) (*Conn, error) {
	nc, err := dial(ctx, path)
	if err != nil {
		return nil, &DialError{Path: path, Attempts: 1, Last: err}
	}
	return NewConn(nc, opts...), nil
}

// DialUntil connects as soon as a socket at path answers. It tries again after
// 1 ms at first and, the longer it takes, after up to 25 ms. It gives up when
// ctx ends or stop is closed (which may be nil); the *DialError then names the
// last failure, and errors.Is finds the context's error or ErrStopped in it.
func DialUntil(ctx context.Context, path string, stop <-chan struct{}, opts ...Option) (*Conn, error) {
	start := time.Now()
	timer := time.NewTimer(maxDialWait)
	defer timer.Stop()
	fail := &DialError{Path: path}
	for {
		if fail.Err = ended(ctx, stop); fail.Err != nil {
			return nil, fail
		}
		nc, err := dialThere(ctx, path)
		if err == nil {
			return NewConn(nc, opts...), nil
		}
		fail.Attempts++
		fail.Last = err
		timer.Reset(dialWait(time.Since(start)))
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-stop:
		}
	}
}

// ended tells why to stop trying; nil means go on.
func ended(ctx context.Context, stop <-chan struct{}) error {
	select {
	case <-stop:
		return ErrStopped
	default:
		return ctx.Err()
	}
}

// dialWait is how long to wait for the next try when waited has gone by.
func dialWait(waited time.Duration) time.Duration {
	return min(max(waited/dialWaitShare, minDialWait), maxDialWait)
}

// dialThere does not try a socket that is not there: to look for it costs a tenth of a
// try, and many instances may be starting at once.
func dialThere(ctx context.Context, path string) (net.Conn, error) {
	if err := lookForSocket(path); err != nil {
		return nil, err
	}
	return dial(ctx, path)
}

func dial(ctx context.Context, path string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return dialSocket(ctx, path)
}
