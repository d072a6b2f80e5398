package instance

import "time"

// WithoutKernelHelp turns off what ends osqueryd with its host, so that a test can
// see the lease do its work.
func WithoutKernelHelp() Option { return func(o *options) { o.noParentDeathSignal = true } }

// WithOOMKills replaces the kernel's count.
func WithOOMKills(count func() uint64) Option { return func(o *options) { o.oomKills = count } }

// SDKFlags names the flags that the SDK passes in some run.
func SDKFlags() []string {
	var names []string
	o := defaults("a")
	o.watchdog = Watchdog{Disabled: true, Delay: time.Second}
	for _, f := range o.sdkFlags(paths{}, "") {
		names = append(names, f.name)
	}
	return names
}

// ConfigMayBe reports which ends of a run count against a config.
func ConfigMayBe(e *ExitError) bool { return configMayBe(e) }

// WithDiskHook calls f before whatever may hang with the instance's file system.
func WithDiskHook(f func(what string)) Option { return func(o *options) { o.diskHook = f } }
