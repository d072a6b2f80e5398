// Package osquerydtest is a fake osqueryd for tests, benchmarks and examples: real processes,
// a watcher and a worker, with osquery's Thrift protocol on a real socket. The fake is the
// calling program under another name, so nothing is built or downloaded. [Main] makes it so:
//
//	func TestMain(m *testing.M) {
//		osquerydtest.Main()
//		os.Exit(m.Run())
//	}
//
// A [Fake] then is a binary to run as osqueryd, and controls its processes:
//
//	fake := osquerydtest.Start(t) // New in programs without a testing.TB
//	runner, err := runtime.New(runtime.WithBinary(fake.Path()), …)
//
// # Behaviour
//
// The fake has the flags, exit codes, locks, watcher, extension registry, configs, schedule,
// distributed queries and denylists of osquery 5.23, without event tables, carver and TLS. It
// measures neither memory nor CPU. Tests compare it with a real osqueryd.
//
// Of SQL it supports SELECT of columns, *, literals, count(*) and sleep(n), FROM one table,
// WHERE with AND, ORDER BY one column, and LIMIT. It has a few of osquery's tables, those of
// extensions and of the [Script], and fake_rows, which returns up to 100,000 rows:
// SELECT * FROM fake_rows WHERE n = 1000.
//
// # Scripts
//
// A [Script] scales time, adds tables, and has a [Rule] for each misbehaviour: an [Action] at a
// [Phase].
//
//	script := osquerydtest.Script{}.WithRule(osquerydtest.Rule{
//		Phase: osquerydtest.PhaseReady, Runs: 2,
//		Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 78},
//	})
//
// A copy of the binary elsewhere needs a copy of the file [ScriptName] beside it.
package osquerydtest
