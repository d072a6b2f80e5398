package stats

// Every event type is an Event by value. An event is always passed as a value,
// never as a pointer.
var (
	_ Event = InstanceAdded{}
	_ Event = InstanceUpdated{}
	_ Event = InstanceRemoved{}
	_ Event = InstanceParked{}
	_ Event = InstanceResumed{}
	_ Event = RestartScheduled{}
	_ Event = RunStarting{}
	_ Event = ProcessStarted{}
	_ Event = ExtensionRegistered{}
	_ Event = RunReady{}
	_ Event = WorkerReplaced{}
	_ Event = WorkerLost{}
	_ Event = WatchdogKilled{}
	_ Event = RegistrationLost{}
	_ Event = RegistrationMended{}
	_ Event = TableParked{}
	_ Event = HealthFailed{}
	_ Event = HealthRecovered{}
	_ Event = RunStopping{}
	_ Event = RunEnded{}
	_ Event = ConfigServed{}
	_ Event = ConfigRefused{}
	_ Event = OptionStripped{}
	_ Event = ConfigSetAside{}
	_ Event = ConfigPartIgnored{}
	_ Event = ConfigPushed{}
	_ Event = LogsShipped{}
	_ Event = LogsDropped{}
	_ Event = QueueDamaged{}
	_ Event = QueueLeft{}
	_ Event = TransportFailed{}
	_ Event = Enrolled{}
	_ Event = QueryDenylisted{}
	_ Event = DatabaseReplaced{}
	_ Event = DiscoveryFailed{}
	_ Event = FlagIneffective{}
	_ Event = RateAlarm{}
	_ Event = LeftoverCleaned{}
	_ Event = Suspended{}
	_ Event = PanicCaught{}
)

// Kind is "instance added".
func (InstanceAdded) Kind() string { return "instance added" }

// Kind is "instance updated".
func (InstanceUpdated) Kind() string { return "instance updated" }

// Kind is "instance removed".
func (InstanceRemoved) Kind() string { return "instance removed" }

// Kind is "instance parked".
func (InstanceParked) Kind() string { return "instance parked" }

// Kind is "instance resumed".
func (InstanceResumed) Kind() string { return "instance resumed" }

// Kind is "restart scheduled".
func (RestartScheduled) Kind() string { return "restart scheduled" }

// Kind is "run starting".
func (RunStarting) Kind() string { return "run starting" }

// Kind is "process started".
func (ProcessStarted) Kind() string { return "process started" }

// Kind is "extension registered".
func (ExtensionRegistered) Kind() string { return "extension registered" }

// Kind is "run ready".
func (RunReady) Kind() string { return "run ready" }

// Kind is "worker replaced".
func (WorkerReplaced) Kind() string { return "worker replaced" }

// Kind is "worker lost".
func (WorkerLost) Kind() string { return "worker lost" }

// Kind is "watchdog killed".
func (WatchdogKilled) Kind() string { return "watchdog killed" }

// Kind is "registration lost".
func (RegistrationLost) Kind() string { return "registration lost" }

// Kind is "registration mended".
func (RegistrationMended) Kind() string { return "registration mended" }

// Kind is "table parked".
func (TableParked) Kind() string { return "table parked" }

// Kind is "health failed".
func (HealthFailed) Kind() string { return "health failed" }

// Kind is "health recovered".
func (HealthRecovered) Kind() string { return "health recovered" }

// Kind is "run stopping".
func (RunStopping) Kind() string { return "run stopping" }

// Kind is "run ended".
func (RunEnded) Kind() string { return "run ended" }

// Kind is "config served".
func (ConfigServed) Kind() string { return "config served" }

// Kind is "config refused".
func (ConfigRefused) Kind() string { return "config refused" }

// Kind is "option stripped".
func (OptionStripped) Kind() string { return "option stripped" }

// Kind is "discovery failed".
func (DiscoveryFailed) Kind() string { return "discovery failed" }

// Kind is "config set aside".
func (ConfigSetAside) Kind() string { return "config set aside" }

// Kind is "config part ignored".
func (ConfigPartIgnored) Kind() string { return "config part ignored" }

// Kind is "config pushed".
func (ConfigPushed) Kind() string { return "config pushed" }

// Kind is "logs shipped".
func (LogsShipped) Kind() string { return "logs shipped" }

// Kind is "logs dropped".
func (LogsDropped) Kind() string { return "logs dropped" }

// Kind is "queue damaged".
func (QueueDamaged) Kind() string { return "queue damaged" }

// Kind is "queue left".
func (QueueLeft) Kind() string { return "queue left" }

// Kind is "transport failed".
func (TransportFailed) Kind() string { return "transport failed" }

// Kind is "enrolled".
func (Enrolled) Kind() string { return "enrolled" }

// Kind is "query denylisted".
func (QueryDenylisted) Kind() string { return "query denylisted" }

// Kind is "database replaced".
func (DatabaseReplaced) Kind() string { return "database replaced" }

// Kind is "flag ineffective".
func (FlagIneffective) Kind() string { return "flag ineffective" }

// Kind is "rate alarm".
func (RateAlarm) Kind() string { return "rate alarm" }

// Kind is "leftover cleaned".
func (LeftoverCleaned) Kind() string { return "leftover cleaned" }

// Kind is "suspended".
func (Suspended) Kind() string { return "suspended" }

// Kind is "panic caught".
func (PanicCaught) Kind() string { return "panic caught" }
