package tlstrial

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// stopTimeout bounds the agent's own stop: osqueryd may take 20 s for its.
const stopTimeout = 30 * time.Second

// child is an agent, as seen by the process that started it.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	read  chan struct{} // closed when all of its messages are read
}

// startChild starts an agent, whose messages go into the book.
func startChild(o Orders, b *book) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	c := &child{cmd: exec.Command(self, agentArgument), read: make(chan struct{})} //nolint:noctx // it is stopped by its stdin
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	go c.listen(out, b)
	if err := c.order(o); err != nil {
		return nil, errors.Join(err, c.kill())
	}
	return c, nil
}

// listen ends with the agent.
func (c *child) listen(out io.Reader, b *book) {
	defer close(c.read)
	in := bufio.NewReader(out)
	for {
		text, err := in.ReadBytes('\n')
		if err != nil {
			return // what a kill cut off is no message
		}
		var m Message
		if json.Unmarshal(text, &m) == nil {
			b.note(m)
		}
	}
}

func (c *child) order(o Orders) error {
	if err := json.NewEncoder(c.stdin).Encode(o); err != nil {
		return fmt.Errorf("order to the agent: %w", err)
	}
	return nil
}

// kill is kill -9. It returns when all messages of the agent are in the book.
func (c *child) kill() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the agent: %w", err)
	}
	<-c.read
	_ = c.cmd.Wait() // reports that it was killed
	return nil
}

// stop lets the agent end in good order. One that does not is killed.
func (c *child) stop() error {
	_ = c.stdin.Close() // the agent may be gone already: Wait reports how
	late := time.AfterFunc(stopTimeout, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	<-c.read
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("stop the agent: %w", err)
	}
	return nil
}
