// Package osqueryconf reads a config as osqueryd does, and more strictly: what it accepts, osqueryd
// accepts.
package osqueryconf

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/osqvisor/osqvisor/extension"
	"github.com/osqvisor/osqvisor/internal/osqueryflags"
)

// maxSources bounds how many sources a config can have.
const maxSources = 256

// Document is a parsed config source.
type Document struct {
	Source string
	tree   *node
	// original is what came; it gets on as it is unless plain is false
	// (it had comments, which are read by rules of osqueryd's own) or the tree
	// was changed.
	original string
	plain    bool
	changed  bool
	Ignored  []*extension.ConfigError // what osqueryd will not use of it
}

// Text returns the document as osqueryd gets it.
func (d *Document) Text() string {
	if d.plain && !d.changed {
		return d.original
	}
	return string(d.tree.write(nil))
}

// Parse reads one source, strictly: what it accepts, osqueryd accepts, but for the parts
// that it notes as ignored.
func Parse(source, text string, limit int) (*Document, error) {
	fail := func(format string, args ...any) error {
		return &extension.ConfigError{Source: source, Reason: fmt.Sprintf(format, args...)}
	}
	if len(text) > 4*limit {
		return nil, fail("%d bytes, comments included, are more than 4 times the limit of %d", len(text), limit)
	}
	stripped, plain := stripComments(text)
	if len(stripped) > limit {
		return nil, fail("%d bytes without comments are more than the limit of %d", len(stripped), limit)
	}
	if strings.TrimSpace(stripped) == "" {
		return nil, fail("it is empty; an empty config is {}")
	}
	tree, twice, err := parseTree([]byte(stripped))
	if err != nil {
		return nil, fail("%v", err)
	}
	if tree.kind != '{' {
		return nil, fail("it is not a JSON object")
	}
	s := shape{source: source}
	for _, what := range twice {
		s.skipped("", "%s", what)
	}
	s.document(tree)
	return &Document{
		Source: source, tree: tree, original: text, plain: plain, changed: len(twice) > 0, Ignored: s.notes(),
	}, s.err()
}

// stripComments does what osqueryd does before it parses: it joins lines that end
// in a backslash and leaves out lines that begin with # or //. plain means that
// there was nothing to do.
func stripComments(text string) (stripped string, plain bool) {
	joined := strings.ReplaceAll(text, "\\\n", "")
	plain = len(joined) == len(text)
	var b strings.Builder
	for line := range strings.SplitSeq(joined, "\n") {
		line = strings.Trim(line, " \t\n\v\f\r")
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, "//") {
			plain = false
			line = "" // the line stays, so that errors name the right one
		}
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String(), plain
}

// ParseAll reads all sources of a config.
func ParseAll(config map[string]string, limit int) ([]*Document, error) {
	if len(config) > maxSources {
		return nil, fmt.Errorf("the config has %d sources, more than %d", len(config), maxSources)
	}
	var docs []*Document
	var errs []error
	for _, source := range slices.Sorted(maps.Keys(config)) {
		if strings.ContainsRune(source, 0) {
			errs = append(errs, &extension.ConfigError{Source: source, Reason: "its name holds NUL"})
			continue
		}
		d, err := Parse(source, config[source], limit)
		errs = append(errs, err)
		docs = append(docs, d)
	}
	return docs, errors.Join(errs...)
}

// NamesPacks reports whether the document has packs that it only names.
func (d *Document) NamesPacks() bool {
	packs := d.tree.get("packs")
	return packs != nil && slices.ContainsFunc(packs.members, namesPack)
}

// PutPacks puts the packs in that the document only names, and checks the whole again: packs can
// make it too large or too deep, or end osqueryd.
func (d *Document) PutPacks(limit int, resolve func(name, value string) (string, error)) (*Document, error) {
	packs := d.tree.get("packs")
	var all []member
	ignored := d.Ignored
	for _, m := range packs.members {
		if !namesPack(m) {
			all = append(all, m)
			continue
		}
		text, err := resolve(m.key, m.value.text)
		if err != nil {
			return nil, fmt.Errorf("pack %q of config source %q: %w", m.key, d.Source, err)
		}
		found, twice, err := parsePack(d.Source, m.key, text, limit)
		if err != nil {
			return nil, err
		}
		all, ignored = append(all, found...), append(ignored, twice...)
	}
	packs.members, d.changed = all, true
	whole, err := Parse(d.Source, d.Text(), limit)
	if err != nil {
		return nil, err
	}
	for _, part := range ignored { // of what the whole has no more, too
		if !slices.ContainsFunc(whole.Ignored, func(other *extension.ConfigError) bool { return *other == *part }) {
			whole.Ignored = append(whole.Ignored, part)
		}
	}
	return whole, nil
}

func namesPack(m member) bool { return m.value.kind == '"' }

// parsePack reads a pack; its shape is checked with the document that it joins. The
// name "*" stands for an object of several. ignored are keys that are there twice.
func parsePack(source, name, text string, limit int) (found []member, ignored []*extension.ConfigError, err error) {
	bad := func(reason string) *extension.ConfigError {
		return &extension.ConfigError{Source: source, Path: "packs." + name, Reason: reason}
	}
	stripped, _ := stripComments(text)
	if len(stripped) > limit {
		return nil, nil, bad(fmt.Sprintf("%d bytes are more than the limit of %d", len(stripped), limit))
	}
	tree, twice, err := parseTree([]byte(stripped))
	if err != nil {
		return nil, nil, bad(err.Error())
	}
	if tree.kind != '{' {
		return nil, nil, bad("it is not a JSON object")
	}
	for _, what := range twice[:min(len(twice), maxShapeErrors)] {
		ignored = append(ignored, bad(what))
	}
	found = []member{{name, tree}}
	if name == "*" {
		found = tree.members
	}
	return found, ignored, nil
}

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

// StrippedOption is an option that was removed, and why.
type StrippedOption struct{ Source, Option, Reason string }

// Strip removes what a config must not set from the document and returns it.
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
