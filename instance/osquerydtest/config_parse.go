package osquerydtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

const (
	maxConfigSize  = 1 << 20
	maxConfigDepth = 32
)

// osqueryd's texts.
//
//nolint:revive,staticcheck // its case and its punctuation
var (
	errConfigJSON  = errors.New("Error parsing the config JSON")
	errConfigDepth = errors.New("Error validating the config JSON: Configuration has too many nesting levels!")
)

// parseConfig strips comments and checks size, syntax and depth.
func parseConfig(text string) (map[string]any, error) {
	text = stripComments(text)
	if len(text) > maxConfigSize {
		return nil, fmt.Errorf("%w: the config size exceeds the limit of %d bytes", errConfigJSON, maxConfigSize)
	}
	doc, err := parseObject(text)
	if err != nil {
		return nil, errConfigJSON
	}
	if depthOf(doc) > maxConfigDepth {
		return nil, errConfigDepth
	}
	return doc, nil
}

func parseObject(text string) (map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	if doc == nil || dec.More() {
		return nil, errConfigJSON
	}
	return doc, nil
}

func stripComments(text string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "//") {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

func depthOf(v any) int {
	deepest := 0
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			deepest = max(deepest, depthOf(e))
		}
	case []any:
		for _, e := range v {
			deepest = max(deepest, depthOf(e))
		}
	}
	return deepest + 1
}

// applyParsers takes options and decorators from a config or a pack.
func (c *configState) applyParsers(source string, doc map[string]any) {
	if options, ok := doc["options"].(map[string]any); ok {
		c.mu.Lock()
		maps.Copy(c.options, options)
		merged := maps.Clone(c.options)
		c.mu.Unlock()
		c.applyOptions(merged)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.decorators[source] = parseDecorators(doc["decorators"])
}

func (c *configState) applyOptions(options map[string]any) {
	p := c.w.p
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := optionText(options[name])
		if value == "" || name == "" {
			continue
		}
		if strings.HasPrefix(name, "custom_") {
			p.flags.setCustom(name, value)
			continue
		}
		f, known := p.flags.lookup(name)
		_, alias := flagAliases[name]
		switch {
		case !known:
			p.log.warn("options.cpp:101", "Cannot set unknown or invalid flag: %s", name)
		case f.group == groupCLI && !alias:
			p.log.warn("options.cpp:106", "The CLI only flag --%s set via config file will be ignored, please use a "+
				"flagfile or pass it to the process at startup", name)
		case f.group != groupGflags:
			_ = p.flags.set(name, value) // gflags keeps the old value of an illegal new one
		}
	}
	p.log.configure(p.flags)
}

func optionText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return strconv.FormatUint(uint64(max(f, 0)), 10)
		}
		return v.String()
	case nil:
		return ""
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
	return strings.TrimSpace(b.String())
}

// call is the config registry as peers see it: update, option and genConfig of
// core's own plugins.
func (c *configState) call(name string, req map[string]string) result {
	if !slices.Contains(builtinPlugins["config"], name) {
		return failure("Cannot call registry item: %s", name)
	}
	switch req["action"] {
	case "genConfig":
		return c.generate(name)
	case "update":
		source, hasSource := req["source"]
		data, hasData := req["data"]
		if !hasSource || !hasData {
			return failure("Missing source or data")
		}
		c.updating.Lock()
		defer c.updating.Unlock()
		return plain(c.update(map[string]string{source: data}))
	case "option":
		return result{message: "OK", rows: osquery.ExtensionPluginResponse{{"name": req["name"], "value": c.w.p.flags.str(req["name"])}}}
	case "genPack":
		return c.generatePack(name, req)
	case "":
		return failure("Config plugins require an action")
	}
	return failure("Config plugin action unknown: %s", req["action"])
}

// generate is the filesystem plugin: config_path and the files of config_path.d.
func (c *configState) generate(name string) result {
	if name != "filesystem" {
		return result{message: "OK", rows: osquery.ExtensionPluginResponse{{}}}
	}
	path := c.w.p.flags.str("config_path")
	files, _ := filepath.Glob(path + ".d/*.conf")
	sources := map[string]string{}
	for _, f := range append([]string{path}, files...) {
		raw, err := os.ReadFile(f)
		if err != nil {
			return failure("config file does not exist: %s", f)
		}
		sources[f] = string(raw)
	}
	return result{message: "OK", rows: osquery.ExtensionPluginResponse{sources}}
}
