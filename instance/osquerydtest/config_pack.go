package osquerydtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/osquery/osquery-go/gen/osquery"
)

// generatePack is the filesystem plugin's: the value names a file, and for the
// pack "*" a pattern of files, each a pack that is called like its file.
func (c *configState) generatePack(plugin string, req map[string]string) result {
	name, hasName := req["name"]
	value, hasValue := req["value"]
	if !hasName || !hasValue {
		return failure("Missing name or value")
	}
	text, err := "", fmt.Errorf("Not implemented") //nolint:staticcheck // osqueryd's text
	switch {
	case plugin != "filesystem":
	case name == "*":
		text, err = c.multiPack(value), nil
	default:
		text, err = readPack(value)
	}
	res := result{message: "OK", rows: osquery.ExtensionPluginResponse{{name: text}}}
	if err != nil {
		res.code, res.message = 1, err.Error()
	}
	return res
}

func readPack(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a valid path", path)
	}
	raw, err := os.ReadFile(path)
	return string(raw), err
}

// multiPack leaves out, with a word, what cannot be read.
func (c *configState) multiPack(pattern string) string {
	log := c.w.p.log
	files, _ := filepath.Glob(strings.ReplaceAll(pattern, "%", "*")) // a bad pattern matches nothing
	var packs []field
	for _, path := range files {
		raw, err := os.ReadFile(path)
		if err != nil {
			log.warn("filesystem_config.cpp:145", "Cannot read multi-pack file: %s", path)
			continue
		}
		doc, err := parseObject(stripComments(string(raw)))
		if err != nil {
			log.warn("filesystem_config.cpp:157", "Cannot read multi-pack JSON: %s", path)
			continue
		}
		name := filepath.Base(path)
		packs = append(packs, field{strings.TrimSuffix(name, filepath.Ext(name)), doc})
	}
	return object(packs)
}
