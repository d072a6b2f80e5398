package instance

// WithoutKernelHelp turns off what ends osqueryd with its host, so that a test can
// see the lease do its work.
func WithoutKernelHelp() Option { return func(o *options) { o.noParentDeathSignal = true } }

// WithOOMKills replaces the kernel's count.
func WithOOMKills(count func() uint64) Option { return func(o *options) { o.oomKills = count } }

// SDKFlags names the flags that the host may not set.
func SDKFlags() (owned, refused []string) {
	for _, f := range defaults("a").sdkFlags(paths{}, "") {
		if !f.open {
			owned = append(owned, f.name)
		}
	}
	return owned, sortedKeys(refusedFlags())
}
