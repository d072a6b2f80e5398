package fakeosqueryd

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
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

func flag01(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// fakeUUID makes a stable UUID of a text.
func fakeUUID(text string) string {
	h := sha256.Sum256([]byte(text))
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func (w *worker) hostUUID() string {
	host, _ := os.Hostname()
	return fakeUUID(host)
}

const keyInstanceID = "instance_uuid"

// instanceID is kept in the database, as osqueryd does: a fresh database has another.
func (w *worker) instanceID() string {
	if id, ok := w.db.get(domainSettings, keyInstanceID); ok {
		return id
	}
	id := fakeUUID(rand.Text())
	_ = w.db.put(domainSettings, keyInstanceID, id) // then it is another at the next start
	return id
}

// hostIdentifier follows --host_identifier.
func (w *worker) hostIdentifier() string {
	flags := w.p.flags
	switch flags.str("host_identifier") {
	case "specified":
		return flags.str("specified_identifier")
	case "uuid":
		return w.hostUUID()
	case "instance", "ephemeral":
		return w.instanceID()
	}
	host, _ := os.Hostname()
	return host
}

func (w *worker) osqueryInfo() rows {
	p := w.p
	watcher, ext := "-1", "inactive"
	if p.id.Role == RoleWorker {
		watcher = strconv.Itoa(p.id.Watcher)
	}
	if w.server.listening() {
		ext = "active"
	}
	hash, valid := w.config.hash()
	return rows{{
		"pid": strconv.Itoa(p.id.PID), "uuid": w.hostUUID(), "instance_id": w.instanceID(),
		"version": p.conf.version(), "config_hash": hash, "config_valid": flag01(valid), "extensions": ext,
		"build_platform": runtime.GOOS, "build_distro": "fake", "start_time": strconv.FormatInt(p.start.Unix(), 10),
		"watcher": watcher, "platform_mask": strconv.Itoa(platformMask()),
	}}
}

func (w *worker) osqueryFlags() rows {
	var out rows
	for _, f := range w.p.flags.all() {
		if len(f.name) > 2 {
			out = append(out, map[string]string{
				"name": f.name, "type": string(f.kind), "description": f.desc, "default_value": f.def,
				"value": f.value, "shell_only": flag01(f.group == groupShell),
			})
		}
	}
	return out
}

// osqueryRegistry lists disabled tables, too: so does osqueryd.
func (w *worker) osqueryRegistry() rows {
	var out rows
	for _, reg := range slices.Sorted(maps.Keys(builtinPlugins)) {
		active := w.registry.activeName(reg)
		row := func(name, owner string) {
			out = append(out, map[string]string{
				"registry": reg, "name": name, "owner_uuid": owner, "internal": "0",
				"active": flag01(active == "" || active == name),
			})
		}
		names := builtinPlugins[reg]
		if reg == "table" {
			names = slices.Sorted(maps.Keys(w.sql.tables))
		}
		for _, name := range names {
			row(name, "0")
		}
		for _, e := range w.registry.list() {
			for _, name := range slices.Sorted(maps.Keys(e.plugins[reg])) {
				row(name, strconv.FormatInt(int64(e.uuid), 10))
			}
		}
	}
	return out
}

func (w *worker) osqueryExtensions() rows {
	version := w.p.conf.version()
	out := rows{{
		"uuid": "0", "name": "core", "version": version, "sdk_version": version,
		"path": w.p.flags.str("extensions_socket"), "type": "core",
	}}
	for _, e := range w.registry.list() {
		out = append(out, map[string]string{
			"uuid": strconv.FormatInt(int64(e.uuid), 10), "name": e.info.Name, "version": e.info.Version,
			"sdk_version": e.info.SdkVersion, "path": w.registry.socketOf(e.uuid), "type": "extension",
		})
	}
	return out
}

func (w *worker) osquerySchedule() rows {
	var out rows
	for _, q := range w.sched.describe() {
		perf := w.sched.performance(q.fullName)
		num := func(n int64) string { return strconv.FormatInt(n, 10) }
		out = append(out, map[string]string{
			"name": q.fullName, "query": q.Query, "interval": num(q.Interval), "executions": num(perf.Executions),
			"last_executed": num(perf.LastExecuted), "denylisted": flag01(q.denylisted), "output_size": num(perf.OutputSize),
			"wall_time": num(perf.WallMS / 1000), "wall_time_ms": num(perf.WallMS), "last_wall_time_ms": num(perf.LastWallMS),
			"user_time": "0", "last_user_time": "0", "system_time": "0", "last_system_time": "0",
			"average_memory": "0", "last_memory": "0",
		})
	}
	return out
}

func (w *worker) osqueryPacks() rows {
	var out rows
	for _, p := range w.config.packList() {
		out = append(out, map[string]string{
			"name": p.name, "platform": p.platform, "version": p.version, "shard": strconv.FormatInt(p.shard, 10),
			"discovery_cache_hits": "0", "discovery_executions": "1", "active": flag01(p.active),
		})
	}
	return out
}

// extensionTable is a table that an extension generates.
func (e *engine) extensionTable(ext *extension, name string) *tableDef {
	t := &tableDef{name: name}
	for _, r := range ext.plugins["table"][name] {
		if r["id"] == "column" {
			t.columns = append(t.columns, column{r["name"], r["type"]})
		}
	}
	t.scan = func(where []condition, used map[string]bool) (rows, error) {
		res := e.w.registry.callExtension(ext.uuid, "table", name, map[string]string{
			"action": "generate", "context": queryContext(t, where, used),
		})
		if res.code != 0 {
			return nil, errors.New(res.message)
		}
		return t.typed(res.rows), nil
	}
	return t
}

// read gets the rows that a statement wants, and maybe more. SQLite asks an
// extension once for each value of an IN.
func (t *tableDef) read(s *selection) (rows, error) {
	if t.scan == nil {
		return t.generate(s.where)
	}
	used := s.uses(t)
	var out rows
	for _, where := range eachOfIn(s.where) {
		got, err := t.scan(where, used)
		if err != nil {
			return nil, err
		}
		out = append(out, satisfying(where, got)...)
	}
	return out, nil
}

// uses are the columns that a statement names.
func (s *selection) uses(t *tableDef) map[string]bool {
	used := map[string]bool{s.order: true}
	for _, it := range s.items {
		used[it.column] = true
		if it.star {
			for _, c := range t.columns {
				used[c.name] = true
			}
		}
	}
	for _, w := range s.where {
		used[w.column] = true
	}
	return used
}

// eachOfIn replaces each IN by one equality after the other.
func eachOfIn(where []condition) [][]condition {
	i := slices.IndexFunc(where, func(c condition) bool { return c.op == "in" })
	if i < 0 {
		return [][]condition{where}
	}
	var out [][]condition
	for _, v := range slices.Compact(slices.Sorted(slices.Values(where[i].values))) {
		one := slices.Clone(where)
		one[i] = condition{column: where[i].column, op: "=", values: []string{v}}
		out = append(out, eachOfIn(one)...)
	}
	return out
}

// queryContext is the JSON that tells an extension what is asked: names in
// order, but the bits by the order of the table's columns.
func queryContext(t *tableDef, where []condition, used map[string]bool) string {
	type expr struct {
		Op   int    `json:"op"`
		Expr string `json:"expr"`
	}
	type constraint struct {
		Name     string `json:"name"`
		List     []expr `json:"list"`
		Affinity string `json:"affinity"`
	}
	out := struct {
		Constraints []constraint `json:"constraints"`
		ColsUsed    []string     `json:"colsUsed"`
		Bitset      uint64       `json:"colsUsedBitset"`
	}{Constraints: []constraint{}, ColsUsed: []string{}}
	for i, c := range t.columns {
		con := constraint{Name: c.name, List: []expr{}, Affinity: c.kind}
		for _, w := range where {
			if op, ok := constraintOps[w.op]; ok && strings.EqualFold(w.column, c.name) {
				for _, v := range w.values {
					con.List = append(con.List, expr{op, v})
				}
			}
		}
		out.Constraints = append(out.Constraints, con)
		if used[c.name] {
			out.ColsUsed = append(out.ColsUsed, c.name)
			out.Bitset |= 1 << min(i, 63)
		}
	}
	slices.Sort(out.ColsUsed)
	slices.SortFunc(out.Constraints, func(a, b constraint) int { return strings.Compare(a.Name, b.Name) })
	raw, _ := json.Marshal(out) // strings and numbers alone
	return string(raw)
}
