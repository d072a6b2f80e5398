package instance

import (
	"errors"
	"fmt"
	"strings"
)

// MaxIDLength is the longest id of an instance, in bytes.
const MaxIDLength = 64

// windowsDevices may not be the name of a directory on Windows, with or without
// an extension. They are refused everywhere, so that a host's ids are portable.
const windowsDevices = " con prn aux nul com0 com1 com2 com3 com4 com5 com6 com7 com8 com9" +
	" lpt0 lpt1 lpt2 lpt3 lpt4 lpt5 lpt6 lpt7 lpt8 lpt9 "

// CheckID says whether id can name an instance: 1 to 64 letters, digits, dots,
// underscores and hyphens, beginning and ending with a letter or a digit. The id names
// the instance's directory and stands in every log line and event.
func CheckID(id string) error {
	switch {
	case id == "":
		return errors.New("the id is empty; give the instance a name such as \"vendor\"")
	case len(id) > MaxIDLength:
		return fmt.Errorf("the id is %d bytes long; at most %d are allowed", len(id), MaxIDLength)
	}
	for _, r := range id {
		if !idRune(r) {
			return fmt.Errorf("the id %q contains %q; use letters, digits, dots, underscores and hyphens", id, r)
		}
	}
	if !alnum(rune(id[0])) || !alnum(rune(id[len(id)-1])) {
		return fmt.Errorf("the id %q must begin and end with a letter or a digit", id)
	}
	base, _, _ := strings.Cut(strings.ToLower(id), ".")
	if strings.Contains(windowsDevices, " "+base+" ") {
		return fmt.Errorf("the id %q is the name of a device on Windows; choose another", id)
	}
	return nil
}

func idRune(r rune) bool { return alnum(r) || r == '.' || r == '_' || r == '-' }

func alnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}
