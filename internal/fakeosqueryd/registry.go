package fakeosqueryd

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
)

// builtinPlugins are core's own, without tables.
var builtinPlugins = map[string][]string{
	"carver":             nil,
	"config":             {"filesystem", "tls", "update"},
	"config_parser":      {"auto_constructed_tables", "decorators", "events", "file_paths", "logger", "options", "prometheus_targets", "views", "yara"},
	"database":           {"ephemeral", "rocksdb"},
	"distributed":        {"tls"},
	"enroll":             {"tls"},
	"event_publisher":    {"auditeventpublisher", "inotify", "syslog", "udev"},
	"event_subscriber":   {"file_events", "hardware_events", "process_events", "socket_events", "syslog_events", "user_events"},
	"logger":             {"aws_firehose", "aws_kinesis", "buffered", "filesystem", "kafka_producer", "stderr", "stdout", "syslog", "tls"},
	"numeric_monitoring": {"filesystem"},
	"sql":                {"sql"},
	"table":              nil,
}

// registry is core's list of plugins, its own and those of extensions. It is
// safe for concurrent use.
type registry struct {
	w  *worker
	mu sync.Mutex

	active     map[string]string
	extensions map[osquery.ExtensionRouteUUID]*extension
	used       map[osquery.ExtensionRouteUUID]bool // never given twice
	tables     map[string]bool                     // ever registered: they fail differently once gone
	changed    chan struct{}                       // closed and replaced at each change
}

func newRegistry(w *worker) *registry {
	return &registry{
		w: w, active: map[string]string{}, extensions: map[osquery.ExtensionRouteUUID]*extension{},
		used: map[osquery.ExtensionRouteUUID]bool{}, tables: map[string]bool{}, changed: make(chan struct{}),
	}
}

// isBuiltin reports whether core itself has the plugin.
func (r *registry) isBuiltin(reg, name string) bool {
	if reg == "table" {
		return r.w.sql.builtin(name) != nil
	}
	return slices.Contains(builtinPlugins[reg], name)
}

// owner finds the extension that serves a plugin.
func (r *registry) owner(reg, name string) (*extension, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ownerLocked(reg, name)
}

func (r *registry) ownerLocked(reg, name string) (*extension, bool) {
	for _, e := range r.extensions {
		if _, ok := e.plugins[reg][name]; ok {
			return e, true
		}
	}
	return nil, false
}

// register assigns a UUID to an extension, or returns why not.
func (r *registry) register(info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry) (osquery.ExtensionRouteUUID, error) {
	log := r.w.p.log
	r.mu.Lock()
	for _, e := range r.extensions {
		if e.info.Name == info.Name {
			r.mu.Unlock()
			log.error("interface.cpp:115", "Refusing to register duplicate extension %s", info.Name)
			return 0, fmt.Errorf("Duplicate extension registered") //nolint:staticcheck // osqueryd's text
		}
	}
	if !versionAtLeast(minSDK, info.SdkVersion) {
		r.mu.Unlock()
		log.warn("interface.cpp:123", "Could not add extension %s: incompatible extension SDK %s, minimum required is %s",
			info.Name, info.SdkVersion, minSDK)
		return 0, fmt.Errorf("Incompatible extension SDK version") //nolint:staticcheck // osqueryd's text
	}
	uuid := r.newUUID()
	err := r.conflict(reg)
	if err == nil {
		r.add(uuid, info, reg)
	}
	r.mu.Unlock()
	log.info("interface.cpp:138", "Registering extension (%s, %d, version=%s, sdk=%s)", info.Name, uuid, info.Version, info.SdkVersion)
	if err != nil {
		log.error("interface.cpp:145", "Could not add extension %s: %s", info.Name, err)
		return 0, fmt.Errorf("Failed adding registry: %w", err) //nolint:staticcheck // osqueryd's text
	}
	return uuid, nil
}

// newUUID is random, and can be 0 when the script wants it.
func (r *registry) newUUID() osquery.ExtensionRouteUUID {
	if r.w.p.zeroUUID.Swap(false) {
		return 0
	}
	for {
		uuid := osquery.ExtensionRouteUUID(1 + rand.IntN(0xffff)) //nolint:gosec // no secret
		if !r.used[uuid] {
			r.used[uuid] = true
			return uuid
		}
	}
}

func (r *registry) conflict(reg osquery.ExtensionRegistry) error {
	for _, name := range slices.Sorted(maps.Keys(reg)) {
		for item := range reg[name] {
			if _, taken := r.ownerLocked(name, item); taken || r.isBuiltin(name, item) {
				//nolint:revive,staticcheck // osqueryd's text
				return fmt.Errorf("Registry item %s conflicts with another item of the same name.", item)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(reg)) {
		if _, known := builtinPlugins[name]; !known {
			return fmt.Errorf("Unknown registry: %s", name) //nolint:staticcheck // osqueryd's text
		}
		for _, routes := range reg[name] {
			if name == "table" && len(routes) == 0 {
				return fmt.Errorf("Invalid route info") //nolint:staticcheck // osqueryd's text
			}
		}
	}
	return nil
}

func (r *registry) add(uuid osquery.ExtensionRouteUUID, info *osquery.InternalExtensionInfo, reg osquery.ExtensionRegistry) {
	e := &extension{uuid: uuid, info: *info, plugins: map[string]map[string]osquery.ExtensionPluginResponse{}}
	for name, table := range reg {
		e.plugins[name] = maps.Clone(map[string]osquery.ExtensionPluginResponse(table))
	}
	for name := range reg["table"] {
		r.tables[name] = true
	}
	r.extensions[uuid] = e
	r.touch()
}

// wasTable reports whether an extension had a table of that name.
func (r *registry) wasTable(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tables[name]
}

// remove forgets an extension; false when it is not there.
func (r *registry) remove(uuid osquery.ExtensionRouteUUID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.extensions[uuid]
	delete(r.extensions, uuid)
	r.touch()
	return ok
}

// drop forgets the extensions of that name (all when empty) in silence.
func (r *registry) drop(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.extensions)
	maps.DeleteFunc(r.extensions, func(_ osquery.ExtensionRouteUUID, e *extension) bool {
		return name == "" || e.info.Name == name
	})
	if n == len(r.extensions) {
		return fmt.Errorf("no extension %q is registered", name)
	}
	r.touch()
	return nil
}

func (r *registry) touch() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// list returns the extensions in order of UUID.
func (r *registry) list() []*extension {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*extension
	for _, uuid := range slices.Sorted(maps.Keys(r.extensions)) {
		out = append(out, r.extensions[uuid])
	}
	return out
}

// activate checks that each of the comma-separated plugins is there, and sets
// them up.
func (r *registry) activate(reg, names string) error {
	for name := range strings.SplitSeq(names, ",") {
		if _, ok := r.owner(reg, name); !ok && !r.isBuiltin(reg, name) {
			return fmt.Errorf("Unknown registry plugin: %s", name) //nolint:staticcheck // osqueryd's text
		}
	}
	r.mu.Lock()
	r.active[reg] = names
	r.mu.Unlock()
	for name := range strings.SplitSeq(names, ",") {
		if err := r.setUp(reg, name); err != nil {
			return err
		}
	}
	return nil
}

func (r *registry) setUp(reg, name string) error {
	if e, ok := r.owner(reg, name); ok {
		return r.pingExtension(e.uuid)
	}
	if reg == "logger" && name == "filesystem" {
		return r.w.logs.createFile(resultsLog)
	}
	return nil
}

func (r *registry) activeName(reg string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active[reg]
}

// watch pings each extension in turn, every extensions_interval. One failure
// forgets it.
func (r *registry) watch() {
	p := r.w.p
	interval := max(p.conf.period(p.flags.seconds("extensions_interval")), p.conf.period(200*time.Millisecond))
	for {
		if !r.waitAny() || !p.sleep(interval) {
			return
		}
		for _, e := range r.list() {
			r.check(e)
			if p.stopping() {
				return
			}
		}
	}
}

// waitAny waits for an extension, so that a fake without one does not wake.
func (r *registry) waitAny() bool {
	for {
		r.mu.Lock()
		n, changed := len(r.extensions), r.changed
		r.mu.Unlock()
		if n > 0 {
			return true
		}
		select {
		case <-changed:
		case <-r.w.p.stop:
			return false
		case <-r.w.p.dead:
			return false
		}
	}
}

// check pings once. The first check gives a latent extension
// extensions_timeout to open its socket.
func (r *registry) check(e *extension) {
	p := r.w.p
	var err error
	if e.checked {
		err = r.ping(e.uuid)
	} else {
		err = r.poll(func() (bool, error) { err := r.ping(e.uuid); return err == nil, err })
	}
	if err == nil {
		e.checked = true
		r.w.count.checks.Add(1)
		return
	}
	if p.stopping() || !r.remove(e.uuid) {
		return
	}
	r.w.count.gone.Add(1)
	p.log.info("extensions.cpp:366", "Extension UUID %d has gone away", e.uuid)
}

// poll asks every 20 ms until done or extensions_timeout (at least 200 ms)
// has passed, and returns the last error.
func (r *registry) poll(try func() (done bool, err error)) error {
	p := r.w.p
	timeout := max(p.flags.seconds("extensions_timeout"), 200*time.Millisecond)
	end := time.Now().Add(p.conf.deadline(timeout))
	for {
		done, err := try()
		if done || !time.Now().Before(end) {
			return err
		}
		if !p.sleep(20 * time.Millisecond) {
			return err
		}
	}
}

// waitRequired waits for each of extensions_require to be registered and to
// answer. After one timeout the rest are looked at once.
func (r *registry) waitRequired() error {
	waited := false
	for name := range strings.SplitSeq(r.w.p.flags.str("extensions_require"), ",") {
		err := r.poll(func() (bool, error) {
			for _, e := range r.list() {
				if e.info.Name == name {
					err := r.pingExtension(e.uuid)
					return err == nil, err
				}
			}
			return waited, fmt.Errorf("Required extension not found or not loaded: %s", name) //nolint:staticcheck // osqueryd's text
		})
		if err != nil {
			return err
		}
		waited = true
	}
	return nil
}

// shutdownExtensions requests each extension to end.
func (r *registry) shutdownExtensions() {
	for _, e := range r.list() {
		if isClosed(r.w.p.dead) {
			return
		}
		if err := r.shutdownOne(e.uuid); err != nil {
			r.w.p.log.debug("extensions.cpp:284", "Extension UUID %d shutdown request failed", e.uuid)
		}
	}
}

func (r *registry) shutdownOne(uuid osquery.ExtensionRouteUUID) error {
	c, err := r.dial(uuid, 0)
	if err != nil {
		return err
	}
	defer c.close()
	return c.client.Shutdown(noContext())
}
