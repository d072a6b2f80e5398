package runtime

import (
	"context"
	"errors"
	"fmt"

	"github.com/osqvisor/osqvisor/instance"
)

// without takes out of an instance's mistakes what follows from the Runner's, which are
// told already.
func (o *options) without(k *realMaker, spec memberSpec, err error) error {
	joined, ok := errors.AsType[joinedError](err)
	if !ok {
		return err
	}
	all := leaves(joined)
	var left []error
	for _, e := range all {
		if oe, ok := errors.AsType[*instance.OptionError](e); !ok || !o.follows(k, spec, oe) {
			left = append(left, e)
		}
	}
	switch len(left) {
	case len(all):
		return err
	case 0:
		return nil
	default:
		return fmt.Errorf("instance %q: %w", spec.id, errors.Join(left...))
	}
}

// follows says that an instance lacks a binary or a directory because the Runner's is
// wrong. What is wrong with one of its own is not told yet.
func (o *options) follows(k *realMaker, spec memberSpec, e *instance.OptionError) bool {
	switch e.Option {
	case "WithBinary":
		_, none := instance.CheckBinary(context.Background(), "")
		return o.binarySet && k.binary.Path == "" && e.Err.Error() == none.Error()
	case "WithRoot":
		return o.rootSet && k.root == "" && k.locate(spec.id, spec.opts).dir == ""
	default:
		return false
	}
}

// joinedError is what errors.Join makes.
type joinedError interface {
	error
	Unwrap() []error
}

// leaves gives the single mistakes that errors.Join put together, joins of joins too.
func leaves(err error) []error {
	joined, ok := err.(joinedError) //nolint:errorlint // each level is looked at
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, leaves(e)...)
	}
	return out
}
