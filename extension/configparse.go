package extension

import (
	"errors"
	"fmt"
	"strings"
)

// maxSources bounds how many sources a config can have.
const maxSources = 256

// ConfigError says what is wrong with a config, and where.
type ConfigError struct {
	// Source is the name of the source, Path the way to the value in it, such as
	// "schedule.logins.interval"; empty when it is the document as a whole.
	Source, Path string
	Reason       string
}

// Error gives source, path and reason.
func (e *ConfigError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("config source %q: %s", e.Source, e.Reason)
	}
	return fmt.Sprintf("config source %q: %s: %s", e.Source, e.Path, e.Reason)
}

// document is a parsed config source.
type document struct {
	source string
	tree   *node
	// original is what came; it is handed on as it is unless plain is false
	// (it had comments, which are read by rules of osqueryd's own) or the tree
	// was changed.
	original string
	plain    bool
	changed  bool
	ignored  []*ConfigError // what osqueryd will not use of it
}

// text gives the document as osqueryd gets it.
func (d *document) text() string {
	if d.plain && !d.changed {
		return d.original
	}
	return string(d.tree.write(nil))
}

// parseConfig reads one source, strictly: what it accepts, osqueryd accepts, but for the parts
// that it notes as ignored.
func parseConfig(source, text string, limit int) (*document, error) {
	fail := func(format string, args ...any) error {
		return &ConfigError{Source: source, Reason: fmt.Sprintf(format, args...)}
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
	return &document{
		source: source, tree: tree, original: text, plain: plain, changed: len(twice) > 0, ignored: s.notes(),
	}, s.err()
}

// stripComments does what osqueryd does before it parses: it joins lines that end
// in a backslash and leaves out lines that begin with # or //. plain says that
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

// parseConfigs reads all sources of a config.
func parseConfigs(config map[string]string, limit int) ([]*document, error) {
	if len(config) > maxSources {
		return nil, fmt.Errorf("the config has %d sources, more than %d", len(config), maxSources)
	}
	var docs []*document
	var errs []error
	for _, source := range sortedKeys(config) {
		if strings.ContainsRune(source, 0) {
			errs = append(errs, &ConfigError{Source: source, Reason: "its name holds NUL"})
			continue
		}
		d, err := parseConfig(source, config[source], limit)
		errs = append(errs, err)
		docs = append(docs, d)
	}
	return docs, errors.Join(errs...)
}
