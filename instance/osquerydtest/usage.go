package osquerydtest

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

// printUsage writes what --help shows: flags in two groups, one a line.
func (fs *flagSet) printUsage(w io.Writer, version string) {
	fmt.Fprintf(w, "osquery %s, your OS as a high-performance relational database\n", version)
	fmt.Fprintf(w, "Usage: osqueryd [OPTION]... \n\n")
	fmt.Fprintf(w, "osquery command line flags:\n\n")
	width := 0
	for _, f := range fs.all() {
		width = max(width, len(f.name))
	}
	width += 6
	fmt.Fprintf(w, "    --flagfile PATH%s  Line-delimited file of additional flags\n", strings.Repeat(" ", width-13))
	fs.printGroup(w, groupCLI, width)
	fmt.Fprintf(w, "\nosquery configuration options (set by config or CLI flags):\n\n")
	fs.printGroup(w, groupOption, width)
	fmt.Fprintf(w, "\nosquery project page <https://osquery.io>.\n")
}

func (fs *flagSet) printGroup(w io.Writer, group flagGroup, width int) {
	for _, f := range fs.all() {
		if f.group != group {
			continue
		}
		head := "    --" + f.name
		pad := width - len(f.name)
		if f.kind != kindBool {
			head += " VALUE"
			pad -= 6
		}
		fmt.Fprintf(w, "%s%s  %s\n", head, strings.Repeat(" ", max(pad, 0)), f.desc)
	}
}

type xmlFlag struct {
	XMLName xml.Name `xml:"flag"`
	File    string   `xml:"file"`
	Name    string   `xml:"name"`
	Meaning string   `xml:"meaning"`
	Default string   `xml:"default"`
	Current string   `xml:"current"`
	Type    flagKind `xml:"type"`
}

// printXML writes what gflags' --helpxml shows: every flag, hidden ones too,
// an element a line.
func (fs *flagSet) printXML(w io.Writer, program string) {
	fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<!-- This output should be used with care. We do not report type names for -->\n")
	fmt.Fprintf(w, "<AllFlags>\n<program>%s</program>\n<usage>Warning: SetUsageMessage() never called</usage>\n", program)
	for _, f := range fs.all() {
		out, err := xml.Marshal(xmlFlag{File: "osquery", Name: f.name, Meaning: f.desc, Default: f.def, Current: f.value, Type: f.kind})
		if err != nil {
			continue // a flag's texts are constants; none fails
		}
		fmt.Fprintf(w, "%s\n", out)
	}
	fmt.Fprintf(w, "</AllFlags>\n")
}
