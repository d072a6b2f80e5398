package osquerydtest

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// platformMask is osquery's bitmask: posix 1, windows 2, linux 8, osx 16.
func platformMask() int {
	switch runtime.GOOS {
	case "windows":
		return 2
	case "darwin":
		return 17
	default:
		return 9
	}
}

// cols reads "name TYPE, name TYPE"; the default type is TEXT.
func cols(list string) []column {
	var out []column
	for part := range strings.SplitSeq(list, ",") {
		name, kind, ok := strings.Cut(strings.TrimSpace(part), " ")
		if !ok {
			kind = "TEXT"
		}
		out = append(out, column{name, kind})
	}
	return out
}

func (w *worker) builtinTables() []*tableDef {
	simple := func(name, columns string, f func() rows) *tableDef {
		return &tableDef{name: name, columns: cols(columns), generate: func([]condition) (rows, error) { return f(), nil }}
	}
	return []*tableDef{
		simple("osquery_info", "pid INTEGER, uuid, instance_id, version, config_hash, config_valid INTEGER, extensions, "+
			"build_platform, build_distro, start_time INTEGER, watcher INTEGER, platform_mask INTEGER", w.osqueryInfo),
		simple("osquery_flags", "name, type, description, default_value, value, shell_only INTEGER", w.osqueryFlags),
		simple("osquery_registry", "registry, name, owner_uuid INTEGER, internal INTEGER, active INTEGER", w.osqueryRegistry),
		simple("osquery_extensions", "uuid BIGINT, name, version, sdk_version, path, type", w.osqueryExtensions),
		simple("osquery_schedule", "name, query, interval INTEGER, executions BIGINT, last_executed BIGINT, denylisted INTEGER, "+
			"output_size BIGINT, wall_time BIGINT, wall_time_ms BIGINT, last_wall_time_ms BIGINT, user_time BIGINT, "+
			"last_user_time BIGINT, system_time BIGINT, last_system_time BIGINT, average_memory BIGINT, last_memory BIGINT", w.osquerySchedule),
		simple("osquery_packs", "name, platform, version, shard INTEGER, discovery_cache_hits INTEGER, "+
			"discovery_executions INTEGER, active INTEGER", w.osqueryPacks),
		simple("time", "weekday, year INTEGER, month INTEGER, day INTEGER, hour INTEGER, minutes INTEGER, seconds INTEGER, "+
			"timezone, local_timezone, unix_time INTEGER, timestamp, datetime, iso_8601", timeTable),
		simple("processes", "pid BIGINT, name, path, cmdline, state, uid BIGINT, gid BIGINT, parent BIGINT, "+
			"resident_size BIGINT, total_size BIGINT, user_time BIGINT, system_time BIGINT, start_time BIGINT, threads INTEGER", processTable),
		simple("users", "uid BIGINT, gid BIGINT, uid_signed BIGINT, gid_signed BIGINT, username, description, directory, shell, uuid",
			usersTable),
		simple("system_info", "hostname, uuid, cpu_type, cpu_brand, cpu_physical_cores INTEGER, cpu_logical_cores INTEGER, "+
			"physical_memory BIGINT, hardware_vendor, hardware_model, hardware_version, hardware_serial, computer_name, local_hostname", w.systemInfo),
		simple("os_version", "name, version, major INTEGER, minor INTEGER, patch INTEGER, build, platform, platform_like, codename, arch",
			osVersion),
		simple("platform_info", "vendor, version, date, revision, extra, firmware_type", func() rows {
			return rows{{"vendor": "osquerydtest", "version": "1", "firmware_type": "unknown"}}
		}),
		{name: "fake_rows", columns: cols("n BIGINT, id BIGINT, name, value, path"), generate: fakeRows},
	}
}

// maxFakeRows bounds what one answer holds in memory to some 50 MB; see Huge for an answer
// of any size.
const maxFakeRows = 100_000

// fakeRows makes as many rows as WHERE n = N asks for, for benchmarks.
func fakeRows(where []condition) (rows, error) {
	n := 0
	for _, c := range where {
		if c.column == "n" && c.op == "=" {
			n, _ = strconv.Atoi(c.values[0])
		}
	}
	if n < 0 || n > maxFakeRows {
		return nil, fmt.Errorf("fake_rows: n = %d is not between 0 and %d", n, maxFakeRows)
	}
	out := make(rows, n)
	text := strconv.Itoa(n)
	for i := range out {
		id := strconv.Itoa(i)
		out[i] = map[string]string{"n": text, "id": id, "name": "name-" + id, "value": "value of row " + id, "path": "/opt/fake/rows/" + id}
	}
	return out, nil
}

func timeTable() rows {
	now := time.Now().UTC()
	zone, _ := time.Now().Zone()
	return rows{{
		"weekday": now.Weekday().String(), "year": strconv.Itoa(now.Year()), "month": strconv.Itoa(int(now.Month())),
		"day": strconv.Itoa(now.Day()), "hour": strconv.Itoa(now.Hour()), "minutes": strconv.Itoa(now.Minute()),
		"seconds": strconv.Itoa(now.Second()), "timezone": "UTC", "local_timezone": zone,
		"unix_time": strconv.FormatInt(now.Unix(), 10), "timestamp": calendar(now),
		"datetime": now.Format(time.RFC3339), "iso_8601": now.Format(time.RFC3339),
	}}
}

func (w *worker) systemInfo() rows {
	host, _ := os.Hostname()
	cores := strconv.Itoa(runtime.NumCPU())
	return rows{{
		"hostname": host, "computer_name": host, "local_hostname": host, "uuid": w.hostUUID(), "cpu_type": runtime.GOARCH,
		"cpu_brand": "fake", "cpu_physical_cores": cores, "cpu_logical_cores": cores, "physical_memory": "8589934592",
		"hardware_vendor": "osquerydtest", "hardware_model": "fake", "hardware_version": "-1", "hardware_serial": "-1",
	}}
}

func osVersion() rows {
	return rows{{
		"name": "Fake " + runtime.GOOS, "version": "1.0.0", "major": "1", "minor": "0", "patch": "0",
		"platform": runtime.GOOS, "platform_like": runtime.GOOS, "arch": runtime.GOARCH,
	}}
}

func usersTable() rows {
	uid := strconv.Itoa(os.Getuid())
	gid := strconv.Itoa(os.Getgid())
	home, _ := os.UserHomeDir()
	out := rows{{
		"uid": "0", "gid": "0", "uid_signed": "0", "gid_signed": "0", "username": "root",
		"description": "root", "directory": "/root", "shell": "/bin/sh",
	}}
	if uid != "0" {
		out = append(out, map[string]string{
			"uid": uid, "gid": gid, "uid_signed": uid, "gid_signed": gid, "username": "user" + uid, "directory": home, "shell": "/bin/sh",
		})
	}
	return out
}
