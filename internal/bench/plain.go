package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	osquery "github.com/osquery/osquery-go"
	"github.com/osquery/osquery-go/plugin/config"
	"github.com/osquery/osquery-go/plugin/logger"
)

// plainTimeout is what hosts give osquery-go for the socket to come.
const plainTimeout = 10 * time.Second

// plain is a host that uses osquery-go as its README shows.
type plain struct {
	*bare
	client *osquery.ExtensionManagerClient
	server *osquery.ExtensionManagerServer
	ended  chan error // of the server's Run
}

// startPlain returns when osqueryd lists the extension.
func (e *Env) startPlain(ctx context.Context, o spawnOptions) (*plain, error) {
	o.plugin = pluginName
	b, err := e.spawn(o)
	if err != nil {
		return nil, err
	}
	p := &plain{bare: b}
	if err := p.attach(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("plain osquery-go: %w", err), b.kill())
	}
	return p, nil
}

// attach registers with the osqueryd that serves the socket.
func (p *plain) attach(ctx context.Context) (err error) {
	// Tried again because osquery-go waits for the socket's file alone, and the one of
	// an osqueryd that was killed is still there.
	if err := until(ctx, func() (err error) {
		p.client, err = osquery.NewClient(p.socket, plainTimeout)
		return err
	}); err != nil {
		return err
	}
	p.server, err = osquery.NewExtensionManagerServer(pluginName, p.socket, osquery.WithClient(p.client))
	if err != nil {
		return err
	}
	p.server.RegisterPlugin(
		config.NewPlugin(pluginName, func(context.Context) (map[string]string, error) {
			return map[string]string{pluginName: "{}"}, nil
		}),
		logger.NewPlugin(pluginName, func(context.Context, logger.LogType, string) error { return nil }),
	)
	server, ended := p.server, make(chan error, 1)
	p.ended = ended
	go func() { ended <- server.Run() }()
	return until(ctx, p.listed)
}

// listed tells whether osqueryd has the registration.
func (p *plain) listed() error {
	list, err := p.client.Extensions()
	if err != nil {
		return err
	}
	for _, info := range list {
		if info.GetName() == pluginName {
			return nil
		}
	}
	return fmt.Errorf("osqueryd lists %d extensions, and not %q", len(list), pluginName)
}

func (p *plain) query(sql string) error {
	res, err := p.client.Query(sql)
	if err != nil {
		return err
	}
	if res.Status.Code != 0 {
		return fmt.Errorf("%s: %s", sql, res.Status.Message)
	}
	return nil
}

// close kills osqueryd and ends the server.
func (p *plain) close() error {
	err := p.kill()
	_ = p.server.Shutdown(context.Background()) // osqueryd, which it asks, is gone
	p.client.Close()
	return err
}
