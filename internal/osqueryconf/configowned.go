package osqueryconf

import (
	"math"
	"slices"
	"strconv"

	"github.com/osqvisor/osqvisor/internal/osqueryflags"
)

// owned reports whether a config may not set the option called name, and why.
func owned(name string, more []string) (reason string, is bool) {
	if reason, ok := osqueryflags.ForConfig(name); !ok {
		return reason, true
	}
	f, _ := osqueryflags.Lookup(name)
	is = slices.ContainsFunc(more, func(other string) bool {
		theirs, _ := osqueryflags.Lookup(other)
		return theirs.Name == f.Name
	})
	return "is the host's to set", is
}

// misread reports whether osqueryd takes the number n for another: it reads the bits of one
// that is no 32-bit integer as an unsigned integer of 64.
func misread(n *node) bool {
	if n.kind != '0' {
		return false
	}
	text := string(n.raw)
	if _, err := strconv.ParseUint(text, 10, 64); err == nil {
		return false
	}
	v, err := strconv.ParseInt(text, 10, 64)
	return err != nil || v < math.MinInt32
}

// strippedOption is an option that was removed, and why.
type StrippedOption struct{ Source, Option, Reason string }

// strip removes what a config must not set from the document and returns it.
func (d *Document) Strip(more []string) []StrippedOption {
	found := d.stripFrom(d.tree, more)
	if packs := d.tree.get("packs"); packs != nil {
		for _, pack := range singlePacks(packs.members) {
			found = append(found, d.stripFrom(pack.value, more)...)
		}
	}
	return found
}

// singlePacks returns packs as osqueryd counts them: an object called "*" is not one but
// holds several.
func singlePacks(packs []member) []member {
	var out []member
	for _, m := range packs {
		if isMultiPack(m) {
			out = append(out, m.value.members...)
		} else {
			out = append(out, m)
		}
	}
	return out
}

func isMultiPack(m member) bool { return m.key == "*" && m.value.kind == '{' }

func (d *Document) stripFrom(n *node, more []string) []StrippedOption {
	options := n.get("options")
	if options == nil {
		return nil
	}
	var found []StrippedOption
	options.members = slices.DeleteFunc(options.members, func(m member) bool {
		reason, is := owned(m.key, more)
		if !is && misread(m.value) {
			reason, is = "has the value "+string(m.value.raw)+", which osqueryd takes for another number", true
		}
		if is {
			found = append(found, StrippedOption{d.Source, m.key, reason})
		}
		return is
	})
	d.changed = d.changed || len(found) > 0
	return found
}
