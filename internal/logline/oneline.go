// Package logline is about the text of a single log line.
package logline

import (
	"encoding/json"
	"strings"
)

// OneLine returns text without line breaks. Those at the end go. In JSON the others stand between values, where a space
// means the same. In what is no JSON they become the two characters \n and \r, which
// also makes JSON of a document with a bare line break within a string.
func OneLine(text string) string {
	if strings.IndexByte(text, '\n') < 0 && strings.IndexByte(text, '\r') < 0 {
		return text
	}
	text = strings.TrimRight(text, "\r\n")
	if !json.Valid([]byte(text)) {
		return strings.NewReplacer("\n", `\n`, "\r", `\r`).Replace(text)
	}
	return strings.NewReplacer("\n", " ", "\r", " ").Replace(text)
}
