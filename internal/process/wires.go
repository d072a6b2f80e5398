package process

import "os"

// wire is one pipe from the child to the host.
type wire struct{ host, child *os.File }

// wires are the child's standard streams. Merged ones have one pipe for both outputs, and no err.
type wires struct {
	null     *os.File
	out, err wire
}

func newWires(merged bool) (*wires, error) {
	w := new(wires)
	var err error
	if w.null, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if w.out.host, w.out.child, err = os.Pipe(); err == nil && !merged {
		w.err.host, w.err.child, err = os.Pipe()
	}
	if err != nil {
		w.closeChildEnds()
		w.closeHostEnds()
		return nil, err
	}
	return w, nil
}

func (w *wires) childFiles() []*os.File {
	if w.err.child == nil {
		return []*os.File{w.null, w.out.child, w.out.child}
	}
	return []*os.File{w.null, w.out.child, w.err.child}
}

// closeChildEnds must happen in the host after the fork, or the host itself would keep the pipes from ending.
func (w *wires) closeChildEnds() { closeAll(w.null, w.out.child, w.err.child) }

func (w *wires) closeHostEnds() { closeAll(w.out.host, w.err.host) }

// closeAll drops the errors: these are pipes, which lose nothing by a failed close, and files that were never opened or
// are closed already, which is harmless.
func closeAll(files ...*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}
