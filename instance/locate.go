package instance

// Locate gives the directory and the socket that an instance with these options
// has. It checks and makes nothing; what is missing or wrong is empty or odd in the
// answer, and New says what.
func Locate(id string, opts ...Option) (dir, socket string) {
	o := defaults(id)
	for _, opt := range opts {
		if opt != nil {
			opt(o)
		}
	}
	if o.dir == "" && o.root == "" {
		return "", o.socket
	}
	p := o.layout()
	return p.dir, p.socket
}
