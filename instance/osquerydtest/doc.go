// Package osquerydtest is a fake osqueryd for tests, benchmarks and examples:
// real processes, a watcher and a worker, that speak osquery's real Thrift
// protocol over a real socket. Nothing is built or downloaded, because the
// fake is the calling program under another name.
//
// # Start
//
// Let [Main] look at the program's name first:
//
//	func TestMain(m *testing.M) {
//		osquerydtest.Main()
//		os.Exit(m.Run())
//	}
//
// Then make a [Fake] and give its Path to whatever starts osqueryd:
//
//	fake := osquerydtest.Start(t)
//	cmd := exec.Command(fake.Path(), "--pidfile=…", "--database_path=…", "--extensions_socket=…")
//
// A test made with [Start] fails when fake processes outlive it. Programs
// without a testing.TB use [New] and [Fake.Close].
//
// # Limits
//
// It measures neither memory nor CPU: the watchdog kills when an [Action] says so. It
// has no event tables, no carver and no TLS, and --force is ignored. Its shell
// (-S) reads nothing and ends at once.
//
// # What it does
//
// All flags of osquery 5.23 with their types and defaults, from argv and
// flagfile, with its texts and exit codes for mistakes; --version, --help,
// --helpxml, --config_check and --config_dump. Pidfile and database locks. The
// watcher's respawn policy. The order of a start: database, socket, wait for
// extensions_require, config, logger, distributed. The extension registry, its
// refusals and its pings. Config, packs, options, schedule with differential
// results, snapshots, decorators, distributed queries, both denylists. The
// built-in plugins filesystem (config and logger), stdout and stderr work; tls
// and the rest are names only.
//
// SQL is a small part: SELECT of columns, *, literals, count(*) and sleep(n),
// FROM one table, WHERE with AND, ORDER BY one column, LIMIT, and several
// statements separated by semicolons. Tables are osquery's own (osquery_info,
// osquery_flags, osquery_registry, osquery_extensions, osquery_schedule,
// osquery_packs), time, processes, users, system_info, os_version,
// platform_info, those of extensions, those of the [Script], and fake_rows,
// which returns the given number of rows, up to 100,000:
//
//	SELECT * FROM fake_rows WHERE n = 1000
//
// A query that finds another one running costs what it does in osqueryd: every
// extension is called for the columns of its tables, and [Stats] counts it.
//
// # Against the real one
//
// The differential tests play the same scenarios on the fake and on the
// osqueryd that OSQUERYD names, and compare both with transcripts recorded from
// osqueryd 5.23.0, which hold for 5.23.1 as well (testdata/differential); another
// version is left out. Where the two differ, the fake is wrong and is changed.
//
// Known to differ: the fake asks every extension to shut down when it ends, and
// osqueryd leaves that out now and then; asked to end while it starts without a
// watchdog and without a socket, osqueryd exits with 0 or 78, as it happens, and the
// fake with 0; the packs and queries of one config are read in the order of
// their names, not of the text; SQL that the fake does not know is a syntax
// error. Main goes by the program's name, so a fake under a name without
// "osqueryd" is no shell but the calling program itself, even with --D; and of
// gflags' own help only --helpxml works.
//
// # Faster than real
//
// A [Script] scales time: its TimeScale the periods that osqueryd waits by
// itself, its DeadlineScale what it grants to others.
//
// # Misbehaving
//
// A [Rule] of the script does an [Action] when a process passes a [Phase]: exit
// with a code, die by a signal, hang, be late, lose a registration, answer
// rubbish and more; in the first so many runs, in the n-th worker, or in a
// fraction of the instances.
//
//	script := osquerydtest.Script{}.WithRule(osquerydtest.Rule{
//		Phase: osquerydtest.PhaseReady, Runs: 2,
//		Action: osquerydtest.Action{Do: osquerydtest.Exit, Code: 78},
//	})
//
// # Remote control
//
// [Fake.WaitWorker] finds a running fake, and the methods of [Process] make it
// do things now: log lines, run its schedule, drop a registration, hang, be
// replaced by the watchdog. They return when it is done; no test needs a sleep.
//
// A fake process reports to its [Fake] over a Unix socket in the fake's
// directory; no environment variable is needed, and a process whose Fake is gone
// works on. A host that copies the binary elsewhere must copy the file
// [ScriptName] with it; symbolic links are followed.
//
// # In process
//
// [Serve] and [Fake.Serve] play the same worker by goroutines, for hundreds of
// instances in one test.
package osquerydtest
