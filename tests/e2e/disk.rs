//! A disk that fails under the running daemon: what cannot be put on record is refused, not done, and told once; when
//! the disk is well again, so is the daemon.

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

/// How long the daemon may take to see that the disk is well again.
const SOON: Duration = Duration::from_secs(3);
/// Further ahead than the lease of a daemon that starts with a window of ten seconds.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(90);
/// Bytes of a page of memory, and of a record.
const PAGE: u64 = 4096;
const RECORD: u64 = 48;
/// What a disk says.
const ERRORS: [&str; 2] = ["error=EIO", "error=ENOSPC"];

/// Makes a call of the keeper, in all of its threads, go wrong each time, on these files if any are named.
fn fault(daemon: &Daemon, book: &Notebook, call: &str, how: &str, files: &[&str]) -> Strace {
    let mut words = vec!["-f".to_owned(), "-b".to_owned(), "execve".to_owned()];
    words.extend([format!("--trace={call}"), format!("--inject={call}:{how}")]);
    words.extend(files.iter().map(|file| format!("--trace-path={}", book.site.path(file).display())));
    Strace::attach(daemon.id(), &words, &book.site.path("faults"))
}

/// How often the call has gone wrong.
fn faults(book: &Notebook) -> usize {
    fs::read_to_string(book.site.path("faults")).unwrap().matches("(INJECTED)").count()
}

/// What the daemon has said that went wrong.
fn errors(daemon: &Daemon) -> Vec<String> {
    daemon.log().lines().filter(|line| line.contains(": error: ")).map(str::to_owned).collect()
}

/// The same, where it must have said so many things.
fn told(daemon: &Daemon, times: usize) -> Vec<String> {
    // What it says is read beside.
    within(SOON, || errors(daemon).len() >= times);
    let errors = errors(daemon);
    assert_eq!(errors.len(), times, "{errors:?}");
    errors
}

fn refused(book: &Notebook, note: &Note) {
    assert_eq!(book.knock(note), Some(ReplyStatus::ActionFailed), "{}", note.name);
}

/// Whether this daemon and the next one know all that has acted.
fn none_acts_again(book: &Notebook, start: impl Fn() -> Daemon, mut daemon: Daemon, notes: &[Note]) {
    for end in ["none", "kill -9", "SIGTERM"] {
        match end {
            "kill -9" => daemon.kill9(),
            "SIGTERM" => assert!(daemon.terminate().success()),
            _ => {}
        }
        if end != "none" {
            daemon = start();
        }
        notes.iter().for_each(|old| book.repeat(old));
        book.works(&format!("after-{end}").replace(' ', ""));
    }
    let twice: Vec<_> = notes.iter().filter(|note| book.times(note) > 1).map(|note| &note.name).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn a_journal_that_cannot_be_written_refuses_and_does_nothing_until_it_can() {
    for how in ERRORS.into_iter().chain(["retval=0"]) {
        let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
        let daemon = book.start();
        let notes = ["before", "first", "second", "third", "after"].map(|name| book.note(name));
        assert_eq!(book.knock(&notes[0]), Some(ReplyStatus::Done), "{how}");
        let fault = fault(&daemon, &book, "pwrite64", how, &[]);
        notes[1..4].iter().for_each(|note| refused(&book, note));
        let told_once = told(&daemon, 1);
        assert!(told_once[0].contains("replay.journal"), "{how}: {told_once:?}");
        drop(fault);
        assert_eq!(book.knock(&notes[4]), Some(ReplyStatus::Done), "{how}");
        assert!(within(SOON, || daemon.log().contains("can be written again")), "{how}: {}", daemon.log());
        assert!(notes[1..4].iter().all(|note| book.times(note) == 0), "{how}: refused is not done");
        told(&daemon, 1);
        none_acts_again(&book, || book.start(), daemon, &notes);
    }
}

#[test]
fn a_lease_that_cannot_be_written_refuses_what_lies_beyond_the_old_one() {
    let lease = ["state/replay.lease", "state/replay.lease.new"];
    let calls = [("fsync", &[][..]), ("rename,renameat2", &[]), ("write", &lease), ("openat", &lease)];
    // Mostly they wait, so all of them do at a time.
    thread::scope(|scope| {
        for (place, (call, files)) in calls.into_iter().enumerate() {
            for (_, how) in (place..).zip(ERRORS).filter(|(place, _)| full() || place % 2 == 0) {
                scope.spawn(move || lease_fails(call, how, files));
            }
        }
    });
}

fn lease_fails(call: &str, how: &str, files: &[&str]) {
    let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "window = \"10s\"\n") else { return };
    let daemon = book.start();
    let fault = fault(&daemon, &book, call, how, files);
    // With a larger window the daemon takes knocks from further ahead, and wants a lease that reaches there.
    book.configure("window = \"600s\"\n");
    daemon.reload();
    let beyond = ["first", "second"].map(|name| book.note_ahead(name, BEYOND_THE_LEASE));
    beyond.iter().for_each(|note| refused(&book, note));
    let below = ["third", "fourth", "fifth"].map(|name| book.note(name));
    for note in &below {
        assert_eq!(book.knock(note), Some(ReplyStatus::Done), "{call} {how}: the old lease covers it");
        // Renewing it is tried meanwhile.
        thread::sleep(Duration::from_millis(700));
    }
    let tries = faults(&book);
    assert!((2..20).contains(&tries), "{call} {how}: {tries} tries");
    told(&daemon, 1);
    drop(fault);
    let after = book.note_ahead("after", BEYOND_THE_LEASE);
    assert_eq!(book.knock(&after), Some(ReplyStatus::Done), "{call} {how}");
    assert!(within(SOON, || daemon.log().contains("can be written again")), "{call} {how}: {}", daemon.log());
    assert!(beyond.iter().all(|note| book.times(note) == 0), "{call} {how}: refused is not done");
    let notes: Vec<Note> = beyond.into_iter().chain(below).chain([after]).collect();
    none_acts_again(&book, || book.start(), daemon, &notes);
}

/// In full only: so many knocks take half a minute.
#[test]
fn a_journal_that_cannot_be_written_anew_is_appended_to_until_it_can() {
    if !full() {
        return;
    }
    let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), NO_LIMITS) else {
        return;
    };
    let mut daemon = book.start();
    let journal = book.site.path("state/replay.journal");
    // Without the room that it keeps.
    let length = || {
        let bytes = fs::read(&journal).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).unwrap() / usize::try_from(RECORD).unwrap()
    };
    let mut sent = many(&book, APPENDED - 10);
    for (call, step) in [("fsync", 20), ("rename,renameat2", REWRITE_RETRY)] {
        let fault = fault(&daemon, &book, call, "error=EIO", &["state/replay.journal.new"]);
        sent.extend(many(&book, step));
        assert!(within(SOON, || faults(&book) > 0), "{call}: it is tried");
        assert!(length() > APPENDED, "{call}: all of it is still there");
        drop(fault);
    }
    let told_once = told(&daemon, 1);
    assert!(told_once[0].contains("replay.journal.new"), "{told_once:?}");
    sent.extend(many(&book, REWRITE_RETRY));
    assert!(within(SOON, || length() < APPENDED / 8), "{} records", length());
    sent.extend(many(&book, 100));

    daemon.kill9();
    let _next = book.start();
    let before = granted(&book);
    for datagram in &sent[sent.len() - 300..] {
        book.lab.client.udp(CLIENT4).send_to(datagram, (SERVER4, KNOCK_PORT)).unwrap();
    }
    book.works("after");
    assert_eq!(granted(&book), before, "none of them is believed again");
}

/// Records appended before the journal is written anew, and between two tries to.
const APPENDED: usize = 1 << 14;
const REWRITE_RETRY: usize = APPENDED >> 3;

/// Sends so many knocks that open a port, each answered before the next but a few; all of them.
fn many(book: &Notebook, count: usize) -> Vec<Vec<u8>> {
    let socket = book.lab.client.udp(CLIENT4);
    let send = |_| {
        let datagram = book.laptop.good();
        socket.send_to(&datagram, (SERVER4, KNOCK_PORT)).unwrap();
        datagram
    };
    let mut sent = Vec::new();
    while sent.len() < count {
        let some: Vec<_> = (0..16.min(count - sent.len())).map(send).collect();
        some.iter().for_each(|_| assert!(socket.recv(&mut [0; 256]).is_ok(), "an answer"));
        sent.extend(some);
    }
    sent
}

fn granted(book: &Notebook) -> usize {
    let _ = book.site.audit();
    fs::read_to_string(book.site.path("audit.jsonl")).unwrap().matches("\"granted\"").count()
}

#[test]
fn an_audit_log_that_cannot_be_written_is_reported_once_keeps_no_one_out_and_is_made_up_for() {
    for how in ERRORS {
        let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
        let daemon = book.start();
        let fault = fault(&daemon, &book, "write", how, &["audit.jsonl"]);
        for name in ["first", "second", "third"] {
            book.works(name);
        }
        assert!(within(SOON, || faults(&book) >= 2), "{how}: it is tried again");
        let told_once = told(&daemon, 1);
        assert!(told_once[0].contains("audit"), "{how}: {told_once:?}");
        drop(fault);
        book.works("after");
        assert!(within(SOON, || book.site.audit_of("done").len() == 4), "{how}: no record is lost");
        told(&daemon, 1);
    }
}

#[test]
fn a_disk_that_is_full_in_the_midst_of_a_record_cuts_it_off_and_believes_nothing_twice() {
    let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let (mounts, state) = (Mounts::new(), book.site.path("state"));
    mounts.mount(&["-t", "tmpfs", "-o", "size=32k,mode=0700", "none"], &state);
    let start = || Daemon::start_command(&book.lab.server, book.command(&mounts.words()));
    let mut daemon = start();
    let seen = |daemon: &Daemon| format!("/proc/{}/root{}", daemon.id(), state.display());
    let length = |daemon: &Daemon| fs::metadata(seen(daemon) + "/replay.journal").unwrap().len();
    // On so small a disk nothing can be kept for when it is full, which is in the log.
    assert!(daemon.log().contains("if the disk is full, knocks will be refused"), "{}", daemon.log());
    // No page more than it has: the record that begins in the journal's last one does not find its end.
    while length(&daemon) < PAGE - 3 * RECORD {
        let answer = ask(&book.lab.client.udp(CLIENT4), SERVER4, &book.laptop.good());
        assert!(answer.is_some());
    }
    let used = statvfs(seen(&daemon).as_str()).unwrap();
    let used = (used.blocks() - used.blocks_free()) * used.fragment_size();
    mounts.mount(&["-o", &format!("remount,size={used}")], &state);
    let notes: Vec<Note> = (0..6).map(|n| book.note(&format!("note-{n}"))).collect();
    let answers: Vec<_> = notes.iter().map(|note| book.knock(note).expect("an answer")).collect();
    let done = answers.iter().take_while(|answer| **answer == ReplyStatus::Done).count();
    assert!((1..4).contains(&done), "{answers:?}");
    assert!(answers[done..].iter().all(|answer| *answer == ReplyStatus::ActionFailed), "{answers:?}");
    let whole = length(&daemon);
    assert!(whole < PAGE && whole.is_multiple_of(RECORD), "{whole}: what was cut short is taken back");
    told(&daemon, 1);

    daemon.kill9();
    let mut next = Daemon::launch(&book.lab.server, book.command(&mounts.words()));
    assert!(within(SOON, || next.has_ended()), "without room for its state no daemon starts");
    assert!(within(SOON, || next.log().contains("no space left")), "{}", next.log());
    mounts.mount(&["-o", "remount,size=1m"], &state);
    none_acts_again(&book, start, start(), &notes[..done]);
}

#[test]
fn an_audit_log_on_a_full_disk_has_half_a_record_at_most_and_no_empty_line() {
    let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let (mounts, folder) = (Mounts::new(), book.site.path("log"));
    fs::create_dir(&folder).unwrap();
    mounts.mount(&["-t", "tmpfs", "-o", "size=4k,mode=0700", "none"], &folder);
    let config = book.site.path("spa-knockd.toml");
    let text = fs::read_to_string(&config).unwrap().replace("/audit.jsonl", "/log/audit.jsonl");
    fs::write(&config, text).unwrap();
    let daemon = Daemon::start_command(&book.lab.server, book.command(&mounts.words()));
    let knock = || ask(&book.lab.client.udp(CLIENT4), SERVER4, &book.laptop.good()).expect("an answer");
    while errors(&daemon).is_empty() {
        knock();
    }
    knock();
    mounts.mount(&["-o", "remount,size=64k"], &folder);
    knock();
    let seen = format!("/proc/{}/root{}/audit.jsonl", daemon.id(), folder.display());
    let read = || fs::read_to_string(&seen).unwrap();
    assert!(within(SOON, || read().len() > 4096 && read().ends_with('\n')));
    let text = read();
    let broken: Vec<_> = text.lines().filter(|line| serde_json::from_str::<Value>(line).is_err()).collect();
    assert!(broken.len() <= 1 && !broken.contains(&""), "{broken:?}");
    told(&daemon, 1);
}

/// Calls that reach the disk, or say whether something is there.
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
/// Points that CI tries.
const SAMPLE: usize = 12;

#[test]
fn a_call_that_fails_once_at_any_point_lets_no_knock_act_twice() {
    let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let chosen = |point: &Point| point.victim != Victim::Watcher && point.is_one_of(&FILE_CALLS);
    let points = sample(book.points().into_iter().filter(chosen).collect(), SAMPLE);
    assert!(points.len() >= SAMPLE, "{points:?}");
    let (mut failed, mut refused_to_start) = (0, 0);
    for (place, point) in points.iter().enumerate() {
        let how = ERRORS[place % 2];
        let old = book.note(&point.name());
        let mut daemon = book.launch_with(point, how);
        let status = book.live(&mut daemon, &old);
        let log = daemon.log();
        assert!(status.signal().is_none() && !log.contains("panicked"), "{}: {status}: {log}", old.name);
        failed += usize::from(faults(&book) > 0);
        refused_to_start += usize::from(!status.success());
        assert!(status.success() || !log.contains("ready"), "{}: it stays up: {status}: {log}", old.name);
        let mut next = book.start();
        (0..2).for_each(|_| book.repeat(&old));
        book.works(&format!("{}-next", old.name));
        assert!(book.times(&old) <= 1, "{}", old.name);
        next.kill9();
    }
    println!(
        "a failing call at {failed} of {} points: {refused_to_start} of them kept the daemon from starting",
        points.len()
    );
    // How often a thread makes a call depends on how much it finds to do at a time, so that some points are missed.
    assert!(failed * 3 >= points.len(), "{failed} of {}", points.len());
}
