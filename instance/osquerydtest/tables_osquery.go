package osquerydtest

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
)

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
		"version": p.script.version(), "config_hash": hash, "config_valid": flag01(valid), "extensions": ext,
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
	version := w.p.script.version()
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
