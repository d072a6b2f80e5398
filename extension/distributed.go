package extension

import "time"

// Distributed sets how an instance runs distributed queries. A field that is zero stands for its
// default.
type Distributed struct {
	// Interval is how often osqueryd fetches queries, in whole seconds, at most a day. The default
	// is 60 s; a negative value switches distributed queries off. A change of it needs a new osqueryd.
	Interval time.Duration
	// AnswerTimeout bounds how long osqueryd waits for its queries, discovery queries included,
	// and, when results cannot be kept on disk, until they are delivered. It has to be shorter than
	// osqueryd's thrift_timeout. The default is 30 s.
	AnswerTimeout time.Duration
}
