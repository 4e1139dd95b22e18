//! A disk that fails while the daemon runs: knocks that cannot be recorded are refused and do not act, and the error is
//! logged once. When the disk works again, the daemon does too.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;
use std::{fs, thread};

use nix::sys::statvfs::statvfs;
use serde_json::Value;
use spa_knock_core::knock::ReplyStatus;

use crate::kill::points::{Point, Victim};
use crate::kill::sample;
use crate::net::{CLIENT4, Daemon, KNOCK_PORT, Mounts, NO_LIMITS, SERVER4, ask, full, within};
use crate::notebook::{Note, Notebook};
use crate::strace::Strace;

/// Time limit until the daemon notices that the disk works again.
const SOON: Duration = Duration::from_secs(3);
/// Further in the future than the lease of a daemon that has started with a window of ten seconds.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(90);
/// Size in bytes of a page of memory, and of a record.
const PAGE: u64 = 4096;
const RECORD: u64 = 48;
/// Errors of a disk.
const ERRORS: [&str; 2] = ["error=EIO", "error=ENOSPC"];

/// Makes a system call fail each time in all threads of the keeper; only for these files if any are given.
fn fault(daemon: &Daemon, notebook: &Notebook, call: &str, error: &str, files: &[&str]) -> Strace {
    let mut args = vec!["-f".to_owned(), "-b".to_owned(), "execve".to_owned()];
    args.extend([format!("--trace={call}"), format!("--inject={call}:{error}")]);
    args.extend(files.iter().map(|file| format!("--trace-path={}", notebook.site.path(file).display())));
    Strace::attach(daemon.id(), &args, &notebook.site.path("faults"))
}

/// Number of calls that have failed so far.
fn faults(notebook: &Notebook) -> usize {
    fs::read_to_string(notebook.site.path("faults")).unwrap().matches("(INJECTED)").count()
}

/// The errors in the daemon's log.
fn errors(daemon: &Daemon) -> Vec<String> {
    daemon.log().lines().filter(|line| line.contains(": error: ")).map(str::to_owned).collect()
}

/// Waits until this number of errors is in the daemon's log, and returns them.
fn wait_for_errors(daemon: &Daemon, count: usize) -> Vec<String> {
    // Another thread reads the log.
    within(SOON, || errors(daemon).len() >= count);
    let errors = errors(daemon);
    assert_eq!(errors.len(), count, "{errors:?}");
    errors
}

fn assert_refused(notebook: &Notebook, note: &Note) {
    assert_eq!(notebook.knock(note), Some(ReplyStatus::ActionFailed), "{}", note.name);
}

/// Asserts that none of these knocks acts again, with this daemon and after restarts.
fn none_acts_again(notebook: &Notebook, start: impl Fn() -> Daemon, mut daemon: Daemon, notes: &[Note]) {
    for stop in ["none", "kill -9", "SIGTERM"] {
        match stop {
            "kill -9" => daemon.kill9(),
            "SIGTERM" => assert!(daemon.terminate().success()),
            _ => {}
        }
        if stop != "none" {
            daemon = start();
        }
        notes.iter().for_each(|old| notebook.repeat(old));
        notebook.works(&format!("after-{stop}").replace(' ', ""));
    }
    let acted_twice: Vec<_> =
        notes.iter().filter(|note| notebook.times(note) > 1).map(|note| &note.name).collect();
    assert!(acted_twice.is_empty(), "{acted_twice:?}");
}

#[test]
fn knocks_are_refused_while_the_journal_cannot_be_written() {
    for error in ERRORS.into_iter().chain(["retval=0"]) {
        let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
        let daemon = notebook.start();
        let notes = ["before", "first", "second", "third", "after"].map(|name| notebook.note(name));
        assert_eq!(notebook.knock(&notes[0]), Some(ReplyStatus::Done), "{error}");
        let fault = fault(&daemon, &notebook, "pwrite64", error, &[]);
        notes[1..4].iter().for_each(|note| assert_refused(&notebook, note));
        let logged = wait_for_errors(&daemon, 1);
        assert!(logged[0].contains("replay.journal"), "{error}: {logged:?}");
        drop(fault);
        assert_eq!(notebook.knock(&notes[4]), Some(ReplyStatus::Done), "{error}");
        assert!(within(SOON, || daemon.log().contains("can be written again")), "{error}: {}", daemon.log());
        assert!(
            notes[1..4].iter().all(|note| notebook.times(note) == 0),
            "{error}: refused knocks do not act"
        );
        wait_for_errors(&daemon, 1);
        none_acts_again(&notebook, || notebook.start(), daemon, &notes);
    }
}

#[test]
fn knocks_beyond_the_lease_are_refused_while_it_cannot_be_written() {
    let lease = ["state/replay.lease", "state/replay.lease.new"];
    let calls = [("fsync", &[][..]), ("rename,renameat2", &[]), ("write", &lease), ("openat", &lease)];
    // These cases mostly wait, so they run in parallel.
    thread::scope(|scope| {
        for (place, (call, files)) in calls.into_iter().enumerate() {
            for (_, error) in (place..).zip(ERRORS).filter(|(place, _)| full() || place % 2 == 0) {
                scope.spawn(move || lease_fails(call, error, files));
            }
        }
    });
}

fn lease_fails(call: &str, error: &str, files: &[&str]) {
    let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "window = \"10s\"\n") else { return };
    let daemon = notebook.start();
    let fault = fault(&daemon, &notebook, call, error, files);
    // With a larger window, the daemon accepts knocks from further in the future, and needs a lease that covers them.
    notebook.configure("window = \"600s\"\n");
    daemon.reload();
    let beyond = ["first", "second"].map(|name| notebook.note_ahead(name, BEYOND_THE_LEASE));
    beyond.iter().for_each(|note| assert_refused(&notebook, note));
    let below = ["third", "fourth", "fifth"].map(|name| notebook.note(name));
    for note in &below {
        assert_eq!(notebook.knock(note), Some(ReplyStatus::Done), "{call} {error}: the old lease covers it");
        // In the meantime the daemon tries to renew the lease.
        thread::sleep(Duration::from_millis(700));
    }
    let tries = faults(&notebook);
    assert!((2..20).contains(&tries), "{call} {error}: {tries} tries");
    wait_for_errors(&daemon, 1);
    drop(fault);
    let after = notebook.note_ahead("after", BEYOND_THE_LEASE);
    assert_eq!(notebook.knock(&after), Some(ReplyStatus::Done), "{call} {error}");
    assert!(
        within(SOON, || daemon.log().contains("can be written again")),
        "{call} {error}: {}",
        daemon.log()
    );
    assert!(beyond.iter().all(|note| notebook.times(note) == 0), "{call} {error}: refused knocks do not act");
    let notes: Vec<Note> = beyond.into_iter().chain(below).chain([after]).collect();
    none_acts_again(&notebook, || notebook.start(), daemon, &notes);
}

/// Only in a full run, because so many knocks take half a minute.
#[test]
fn a_journal_that_cannot_be_rewritten_is_appended_to_until_it_can() {
    if !full() {
        return;
    }
    let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), NO_LIMITS) else {
        return;
    };
    let mut daemon = notebook.start();
    let journal = notebook.site.path("state/replay.journal");
    // Without the space that is reserved at the end.
    let length = || {
        let bytes = fs::read(&journal).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() / usize::try_from(RECORD).unwrap()
    };
    let mut sent = send_knocks(&notebook, APPENDED - 10);
    for (call, step) in [("fsync", 20), ("rename,renameat2", REWRITE_RETRY)] {
        let fault = fault(&daemon, &notebook, call, "error=EIO", &["state/replay.journal.new"]);
        sent.extend(send_knocks(&notebook, step));
        assert!(within(SOON, || faults(&notebook) > 0), "{call}: the daemon tries to rewrite the journal");
        assert!(length() > APPENDED, "{call}: the journal still has all records");
        drop(fault);
    }
    let logged = wait_for_errors(&daemon, 1);
    assert!(logged[0].contains("replay.journal.new"), "{logged:?}");
    sent.extend(send_knocks(&notebook, REWRITE_RETRY));
    assert!(within(SOON, || length() < APPENDED / 8), "{} records", length());
    sent.extend(send_knocks(&notebook, 100));

    daemon.kill9();
    let _next = notebook.start();
    let before = granted(&notebook);
    for datagram in &sent[sent.len() - 300..] {
        notebook.lab.client.udp(CLIENT4).send_to(datagram, (SERVER4, KNOCK_PORT)).unwrap();
    }
    notebook.works("after");
    assert_eq!(granted(&notebook), before, "none of them is accepted again");
}

/// Number of records appended before the journal is rewritten, and between two attempts to rewrite it.
const APPENDED: usize = 1 << 14;
const REWRITE_RETRY: usize = APPENDED >> 3;

/// Sends `count` knocks that open a port, in groups that all get replies before the next group. Returns the datagrams.
fn send_knocks(notebook: &Notebook, count: usize) -> Vec<Vec<u8>> {
    let socket = notebook.lab.client.udp(CLIENT4);
    let send = |_| {
        let datagram = notebook.laptop.good();
        socket.send_to(&datagram, (SERVER4, KNOCK_PORT)).unwrap();
        datagram
    };
    let mut sent = Vec::new();
    while sent.len() < count {
        let batch: Vec<_> = (0..16.min(count - sent.len())).map(send).collect();
        batch.iter().for_each(|_| assert!(socket.recv(&mut [0; 256]).is_ok(), "a reply"));
        sent.extend(batch);
    }
    sent
}

fn granted(notebook: &Notebook) -> usize {
    let _ = notebook.site.audit();
    fs::read_to_string(notebook.site.path("audit.jsonl")).unwrap().matches("\"granted\"").count()
}

#[test]
fn an_audit_log_on_a_failing_disk_blocks_no_knock_is_reported_once_and_is_completed_later() {
    for error in ERRORS {
        let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
        let daemon = notebook.start();
        let fault = fault(&daemon, &notebook, "write", error, &["audit.jsonl"]);
        for name in ["first", "second", "third"] {
            notebook.works(name);
        }
        assert!(within(SOON, || faults(&notebook) >= 2), "{error}: the daemon retries");
        let logged = wait_for_errors(&daemon, 1);
        assert!(logged[0].contains("audit"), "{error}: {logged:?}");
        drop(fault);
        notebook.works("after");
        assert!(within(SOON, || notebook.site.audit_of("done").len() == 4), "{error}: no record is lost");
        wait_for_errors(&daemon, 1);
    }
}

#[test]
fn a_record_that_does_not_fit_on_the_disk_is_removed_and_no_knock_is_accepted_twice() {
    let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let (mounts, state) = (Mounts::new(), notebook.site.path("state"));
    mounts.mount(&["-t", "tmpfs", "-o", "size=32k,mode=0700", "none"], &state);
    let start = || Daemon::start_command(&notebook.lab.server, notebook.command(&mounts.nsenter()));
    let mut daemon = start();
    let path_of_daemon = |daemon: &Daemon| format!("/proc/{}/root{}", daemon.id(), state.display());
    let length = |daemon: &Daemon| fs::metadata(path_of_daemon(daemon) + "/replay.journal").unwrap().len();
    // On such a small disk the daemon cannot reserve space for records; it logs this.
    assert!(daemon.log().contains("knocks will be refused when the disk is full"), "{}", daemon.log());
    // The disk gets no further page, so the record that begins in the journal's last page does not fit.
    while length(&daemon) < PAGE - 3 * RECORD {
        let reply = ask(&notebook.lab.client.udp(CLIENT4), SERVER4, &notebook.laptop.good());
        assert!(reply.is_some());
    }
    let used = statvfs(path_of_daemon(&daemon).as_str()).unwrap();
    let used = (used.blocks() - used.blocks_free()) * used.fragment_size();
    mounts.mount(&["-o", &format!("remount,size={used}")], &state);
    let notes: Vec<Note> = (0..6).map(|n| notebook.note(&format!("note-{n}"))).collect();
    let statuses: Vec<_> = notes.iter().map(|note| notebook.knock(note).expect("a reply")).collect();
    let done = statuses.iter().take_while(|status| **status == ReplyStatus::Done).count();
    assert!((1..4).contains(&done), "{statuses:?}");
    assert!(statuses[done..].iter().all(|status| *status == ReplyStatus::ActionFailed), "{statuses:?}");
    let whole = length(&daemon);
    assert!(whole < PAGE && whole.is_multiple_of(RECORD), "{whole}: the incomplete record is removed");
    wait_for_errors(&daemon, 1);

    daemon.kill9();
    let mut next = Daemon::launch(&notebook.lab.server, notebook.command(&mounts.nsenter()));
    assert!(within(SOON, || next.has_exited()), "the daemon does not start without space for its state");
    assert!(within(SOON, || next.log().contains("no space left")), "{}", next.log());
    mounts.mount(&["-o", "remount,size=1m"], &state);
    none_acts_again(&notebook, start, start(), &notes[..done]);
}

#[test]
fn an_audit_log_on_a_full_disk_has_at_most_one_broken_record_and_no_empty_line() {
    let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let (mounts, folder) = (Mounts::new(), notebook.site.path("log"));
    fs::create_dir(&folder).unwrap();
    mounts.mount(&["-t", "tmpfs", "-o", "size=4k,mode=0700", "none"], &folder);
    let config = notebook.site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/audit.jsonl", "/log/audit.jsonl");
    fs::write(&config, text).unwrap();
    let daemon = Daemon::start_command(&notebook.lab.server, notebook.command(&mounts.nsenter()));
    let knock = || ask(&notebook.lab.client.udp(CLIENT4), SERVER4, &notebook.laptop.good()).expect("a reply");
    while errors(&daemon).is_empty() {
        knock();
    }
    knock();
    mounts.mount(&["-o", "remount,size=64k"], &folder);
    knock();
    let path_of_daemon = format!("/proc/{}/root{}/audit.jsonl", daemon.id(), folder.display());
    let read = || fs::read_to_string(&path_of_daemon).unwrap();
    assert!(within(SOON, || read().len() > 4096 && read().ends_with('\n')));
    let text = read();
    let broken: Vec<_> = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert!(broken.len() <= 1 && !broken.contains(&""), "{broken:?}");
    wait_for_errors(&daemon, 1);
}

/// System calls that read or write files, or check whether they exist.
const FILE_CALLS: [&str; 13] = [
    "open",
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "renameat2",
    "ftruncate",
    "unlink",
    "mkdir",
    "flock",
    "read",
];
/// Number of points that are tested if the run is not full.
const SAMPLE: usize = 12;

#[test]
fn a_system_call_that_fails_once_at_any_point_lets_no_knock_act_twice() {
    let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let chosen = |point: &Point| point.victim != Victim::Watcher && point.is_one_of(&FILE_CALLS);
    let points = sample(notebook.points().into_iter().filter(chosen).collect(), SAMPLE);
    assert!(points.len() >= SAMPLE, "{points:?}");
    let (mut failed, mut refused_to_start) = (0, 0);
    for (place, point) in points.iter().enumerate() {
        let error = ERRORS[place % 2];
        let old = notebook.note(&point.name());
        let mut daemon = notebook.launch_with(point, error);
        let status = notebook.live(&mut daemon, &old);
        let log = daemon.log();
        assert!(status.signal().is_none() && !log.contains("panicked"), "{}: {status}: {log}", old.name);
        failed += usize::from(faults(&notebook) > 0);
        refused_to_start += usize::from(!status.success());
        assert!(
            status.success() || !log.contains("ready"),
            "{}: a daemon that was ready does not fail: {status}: {log}",
            old.name
        );
        let mut next = notebook.start();
        (0..2).for_each(|_| notebook.repeat(&old));
        notebook.works(&format!("{}-next", old.name));
        assert!(notebook.times(&old) <= 1, "{}", old.name);
        next.kill9();
    }
    println!(
        "a call failed at {failed} of {} points; at {refused_to_start} of them the daemon did not start",
        points.len()
    );
    // The number of calls depends on how much work a thread does at a time, so some points are not reached.
    assert!(failed * 3 >= points.len(), "{failed} of {}", points.len());
}
