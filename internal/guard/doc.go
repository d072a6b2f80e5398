// Package guard contains code of the host: what panics ends nobody, and what does not
// return holds nobody up.
package guard
