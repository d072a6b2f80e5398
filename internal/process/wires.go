package process

import "os"

// wire is one pipe from the child to the host.
type wire struct{ host, child *os.File }

// wires are the child's standard streams.
type wires struct {
	null     *os.File
	out, err wire
}

func newWires() (*wires, error) {
	w := new(wires)
	var err error
	if w.null, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if w.out.host, w.out.child, err = os.Pipe(); err == nil {
		w.err.host, w.err.child, err = os.Pipe()
	}
	if err != nil {
		w.closeChildEnds()
		w.closeHostEnds()
		return nil, err
	}
	return w, nil
}

func (w *wires) childFiles() []*os.File { return []*os.File{w.null, w.out.child, w.err.child} }

// closeChildEnds must happen in the host after the fork, or the host itself would keep the pipes from ending.
// Closing a nil file is a harmless error.
func (w *wires) closeChildEnds() {
	w.null.Close()
	w.out.child.Close()
	w.err.child.Close()
}

func (w *wires) closeHostEnds() {
	w.out.host.Close()
	w.err.host.Close()
}
