package delivery

import (
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/osqvisor/osqvisor/extension"
)

// maxRetryAfter bounds what a server can ask for.
const maxRetryAfter = 24 * time.Hour

// retryAfter gives the wait that err asks for, and 0 when it asks for none.
func RetryAfter(err error) time.Duration {
	var r *extension.RetryAfterError
	if errors.As(err, &r) && r.After > 0 {
		return min(r.After, maxRetryAfter)
	}
	return 0
}

// newBackoff makes an exponential backoff with jitter that never gives up.
func NewBackoff(first, longest time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first), backoff.WithMaxInterval(longest),
		backoff.WithRandomizationFactor(0.3), backoff.WithMultiplier(2), backoff.WithMaxElapsedTime(0))
}
