package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
)

// readChunk is what one read takes at most. Most lines fit; longer ones are put together up to MaxLine. Each child holds
// such a buffer for as long as it lives, hence small.
const readChunk = 2 << 10

// reader turns one pipe into lines until the pipe ends or is closed, whatever the lines look like.
type reader struct {
	pipe *os.File
	sink func([]byte)
	done chan struct{} // closed when the last line was passed on

	limit   uint64 // in bytes; 0 means none
	over    func() // called once when more came
	stopped bool   // it was called

	bytes uint64
}

func newReader(pipe *os.File, sink func([]byte)) *reader {
	if sink == nil {
		sink = func([]byte) {}
	}
	return &reader{pipe: pipe, sink: sink, done: make(chan struct{})}
}

// run owns the pipe and closes it.
func (r *reader) run() {
	defer close(r.done)
	defer closeAll(r.pipe)
	in := bufio.NewReaderSize(r.pipe, readChunk)
	for r.line(in) == nil {
	}
}

// line reads one line and passes it on. An unfinished last line counts as one.
func (r *reader) line(in *bufio.Reader) error {
	part, err := in.ReadSlice('\n')
	r.count(part)
	if !errors.Is(err, bufio.ErrBufferFull) {
		if len(part) > 0 {
			r.emit(part)
		}
		return err
	}
	long := append(make([]byte, 0, 8*readChunk), part...)
	for errors.Is(err, bufio.ErrBufferFull) {
		part, err = in.ReadSlice('\n')
		r.count(part)
		room := MaxLine - len(long)
		if text := bytes.TrimRight(part, "\r\n"); len(text) > room {
			part = text[:room]
		}
		long = append(long, part[:min(len(part), MaxLine-len(long))]...)
	}
	r.emit(long)
	return err
}

func (r *reader) count(part []byte) {
	r.bytes += uint64(len(part))
	if r.limit > 0 && r.bytes > r.limit && !r.stopped {
		r.stopped = true
		r.over()
	}
}

func (r *reader) emit(line []byte) {
	if r.stopped {
		return
	}
	line = bytes.TrimSuffix(line, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	r.sink(line)
}

// finish waits for the end of the output. When ctx ends first, somebody else still holds the pipe: it is closed.
func (r *reader) finish(ctx context.Context) {
	select {
	case <-r.done:
	case <-ctx.Done():
		closeAll(r.pipe)
		<-r.done
	}
}
