package extension

import (
	"slices"
	"strings"
)

// ownedOptions are flags of osqueryd that a config must not touch: the aliases
// through which it reaches flags of the command line, gflags' own switches, and
// flags that redirect or disable what the instance relies on.
var ownedOptions = []string{
	"allow_unsafe", "config_path", "config_plugin", "config_refresh", "config_tls_accelerated_refresh",
	"config_tls_endpoint", "config_tls_max_attempts", "config_tls_refresh", "daemonize", "database_path", "db_path",
	"disable_database", "disable_distributed", "disable_extensions", "disable_logging", "disable_watchdog",
	"distributed_denylist_duration", "distributed_interval", "distributed_plugin", "distributed_tls_max_attempts",
	"distributed_tls_read_endpoint", "distributed_tls_write_endpoint", "enroll_always", "enroll_secret_env",
	"enroll_secret_path", "enroll_tls_endpoint", "ephemeral", "extension", "extensions_autoload", "extensions_interval",
	"extensions_require", "extensions_socket", "extensions_timeout", "flagfile", "force", "fromenv", "host_identifier",
	"interval", "logger_kafka_brokers", "logger_path", "logger_plugin", "logger_tls_endpoint", "osquery_log_dir",
	"pack_delimiter", "pidfile", "read_max", "schedule_timeout", "socket", "specified_identifier", "thrift_string_size_limit",
	"thrift_timeout", "thrift_verbose", "timeout", "tls_allow_unsafe", "tls_dump", "tls_hostname", "tryfromenv", "undefok",
}

// ownedPrefixes do the same for families of flags.
var ownedPrefixes = []string{"distributed_tls_", "config_tls_", "logger_tls_", "enroll_", "watchdog_", "aws_", "carver_"}

// OwnedOptions gives the osqueryd options that the extension removes from every
// config, at its top level and in packs, those of "*" included, and announces as stats.OptionStripped.
// Beside these it removes the families that begin with "distributed_tls_",
// "config_tls_", "logger_tls_", "enroll_", "watchdog_", "aws_" and "carver_".
func OwnedOptions() []string { return slices.Clone(ownedOptions) }

// owned tells whether a config may not set the option called name.
func owned(name string, more []string) bool {
	name = flagName(name)
	same := func(other string) bool { return flagName(other) == name }
	if slices.Contains(ownedOptions, name) || slices.ContainsFunc(more, same) {
		return true
	}
	return slices.ContainsFunc(ownedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// flagName gives the one name of a flag: osqueryd's flag library reads '-' as '_', and
// osqueryd itself has aliases. The others of those are owned already.
func flagName(name string) string {
	name = strings.ReplaceAll(name, "-", "_")
	if name == "log_numerics_as_numbers" {
		return "logger_numerics"
	}
	return name
}

// stripped is an option that was removed.
type strippedOption struct{ source, option string }

// strip removes owned options from the document and gives their names.
func (d *document) strip(more []string) []strippedOption {
	found := d.stripFrom(d.tree, more)
	if packs := d.tree.get("packs"); packs != nil {
		for _, pack := range singlePacks(packs.members) {
			found = append(found, d.stripFrom(pack.value, more)...)
		}
	}
	return found
}

// singlePacks gives packs as osqueryd counts them: an object called "*" is not one but
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

func (d *document) stripFrom(n *node, more []string) []strippedOption {
	options := n.get("options")
	if options == nil {
		return nil
	}
	var found []strippedOption
	options.members = slices.DeleteFunc(options.members, func(m member) bool {
		if !owned(m.key, more) {
			return false
		}
		found = append(found, strippedOption{d.source, m.key})
		return true
	})
	d.changed = d.changed || len(found) > 0
	return found
}
