// Package osqueryflags is the one table of osqueryd's flags: what each is called, and who may set
// it. The command line of a run, WithFlag and the stripping of configs all follow it.
package osqueryflags

import "strings"

// Owner is who may set a flag. Each may do less than the one before.
type Owner uint8

const (
	// Anyone may set it: a config too, unless the host has set it on the command line.
	Anyone Owner = iota
	// Host may set it, on the command line; a config may not.
	Host
	// SDK sets it in every run, and nobody else may.
	SDK
	// Nobody may set it, and the SDK does not pass it.
	Nobody
)

// Kind is what a flag holds.
type Kind uint8

// The kinds.
const (
	Bool Kind = iota
	Number
	Text
)

// Flag is one of osqueryd's. osqueryd 5.23 lets a config change a flag of the command line by
// one of its aliases, so they share everything with it.
type Flag struct {
	Name    string
	Aliases []string
	Kind    Kind
	Owner   Owner
	// Reason goes on after the name, as in "force kills …". It is empty for flags of Anyone,
	// and for those of the SDK that need no reason.
	Reason string
}

// family is flags that begin alike. Those that the table does not know, because they are
// newer, are the host's to set.
type family struct{ prefix, reason string }

// All returns the whole table. The caller must not change it.
func All() []Flag { return table }

// Lookup returns the flag that osqueryd finds by name: by its own name or an alias, with '-'
// for '_' if need be. A flag that is only known by its family has the name that was asked for.
func Lookup(name string) (Flag, bool) {
	name = strings.ReplaceAll(name, "-", "_")
	for _, f := range table {
		if f.has(name) {
			return f, true
		}
	}
	for _, f := range families {
		if strings.HasPrefix(name, f.prefix) {
			return Flag{Name: name, Kind: Text, Owner: Host, Reason: f.reason}, true
		}
	}
	return Flag{Name: name, Kind: Text}, false
}

func (f Flag) has(name string) bool {
	if f.Name == name {
		return true
	}
	for _, a := range f.Aliases {
		if a == name {
			return true
		}
	}
	return false
}

// Negated returns the flag that name switches off in gflags' way, as "nodisable_events" does.
func Negated(name string) (Flag, bool) {
	opposite, ok := strings.CutPrefix(name, "no")
	if !ok {
		return Flag{}, false
	}
	f, known := Lookup(opposite)
	return f, known && f.Kind == Bool
}

// ForConfig reports whether a config may set the option called name, and why not. The families
// and the negations count: what osqueryd could take for a flag of the host's is one.
func ForConfig(name string) (reason string, ok bool) {
	f, known := Lookup(name)
	if !known {
		if f, known = Negated(strings.ReplaceAll(name, "-", "_")); !known {
			return "", true
		}
	}
	switch {
	case f.Owner == Anyone:
		return "", true
	case f.Reason != "":
		return f.Reason, false
	default:
		return "is set by the SDK", false
	}
}
