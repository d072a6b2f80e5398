package stats

// tally counts the events that are worth a total, whatever state they meet.
func (r *Recorder) tally(e Event) {
	switch e.(type) {
	case WorkerReplaced:
		r.totals.WorkersReplaced++
	case RegistrationMended:
		r.totals.Mended++
	case HealthFailed:
		r.totals.HealthFailures++
	case WatchdogKilled:
		r.totals.WatchdogKills++
	case QueryDenylisted:
		r.totals.Denylisted++
	case DatabaseReplaced:
		r.totals.Databases++
	case PanicCaught:
		r.totals.Panics++
	case TransportFailed:
		r.totals.TransportErrors++
	case ConfigRefused:
		r.totals.ConfigsRefused++
	case ConfigSetAside:
		r.totals.ConfigsSetAside++
	}
}

// failureText is what an event adds to Snapshot.LastError, or empty.
func failureText(e Event) string {
	switch e := e.(type) {
	case RunEnded:
		if e.Cause == CauseRequested {
			return errorText(e.Err, "")
		}
		return errorText(e.Err, causeText(e.Cause))
	case InstanceParked:
		return errorText(e.Err, causeText(e.Cause))
	case HealthFailed:
		return errorText(e.Err, "health check failed")
	case RegistrationLost:
		return errorText(e.Err, "registration lost")
	case WorkerLost:
		return "worker lost"
	}
	return ""
}

func errorText(err error, otherwise string) string {
	if err == nil {
		return otherwise
	}
	return err.Error()
}

func causeText(c Cause) string {
	if c == "" {
		return string(CauseUnknown)
	}
	return string(c)
}
