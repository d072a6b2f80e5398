package osquerydtest

// shellFlags matter to osqueryi alone; osqueryd accepts them.
//

var shellFlags = []flagDef{
	{name: "A", kind: kindString, def: "", desc: "Select all from a table"},
	{name: "L", kind: kindBool, def: "false", desc: "List all table names"},
	{name: "connect", kind: kindString, def: "", desc: "Connect to an extension socket"},
	{name: "csv", kind: kindBool, def: "false", desc: "Set output mode to 'csv'"},
	{name: "extension", kind: kindString, def: "", desc: "Path to a single extension to autoload"},
	{name: "header", kind: kindBool, def: "true", desc: "Toggle column headers true/false"},
	{name: "json", kind: kindBool, def: "false", desc: "Set output mode to 'json'"},
	{name: "json_pretty", kind: kindBool, def: "false", desc: "Set output mode to 'json_pretty'"},
	{name: "line", kind: kindBool, def: "false", desc: "Set output mode to 'line'"},
	{name: "list", kind: kindBool, def: "false", desc: "Set output mode to 'list'"},
	{name: "output", kind: kindString, def: "", desc: "Write results to a file (omit or use '-' for stdout)"},
	{name: "pack", kind: kindString, def: "", desc: "Run all queries in a pack"},
	{name: "planner", kind: kindBool, def: "false", desc: "Enable osquery runtime planner output"},
	{name: "profile", kind: kindInt32, def: "0", desc: "Enable profile mode when non-0, set number of iterations"},
	{name: "query", kind: kindString, def: "", desc: "Execute a single SQL query and exit"},
	{name: "query_file", kind: kindString, def: "", desc: "Execute SQL query from a file and exit"},
	{name: "separator", kind: kindString, def: "|", desc: "Set output field separator, default '|'"},
}
