package osquerydtest

import (
	"fmt"
	"strings"
	"time"

	"github.com/osquery/osquery-go/gen/osquery"
)

// watch pings each extension in turn, every extensions_interval. One failure
// forgets it.
func (r *registry) watch() {
	p := r.w.p
	interval := max(p.script.period(p.flags.seconds("extensions_interval")), p.script.period(200*time.Millisecond))
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
	end := time.Now().Add(p.script.deadline(timeout))
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

// shutdownExtensions asks each extension to leave.
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
