//! Undo tasks run when the time of their action ends, even if the daemon has been restarted in the meantime.

use std::fs;
use std::time::{Duration, SystemTime};

use spa_knock_core::knock::Knock;

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, SOON, Site, ask, knock, within};
use crate::strace::Strace;

/// A site whose action `lamp` writes `on` to a file, and `off` when its time ends.
fn site(seconds: u32) -> Site {
    let site = Site::new("", "");
    let note = |word: &str| {
        let notes = site.path("notes");
        format!(
            "[\"/bin/sh\", \"-c\", \"echo {word} $0 $(date +%s.%N) >> {}\", \"{{address}}\"]",
            notes.display()
        )
    };
    let (on, off) = (note("on"), note("off"));
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.lamp]\nrun = {on}\nundo = {off}\nfor = \"{seconds}s\"\nmax = \"1h\"\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"lamp\"]\n"
    );
    site.write_config("", &rest);
    site
}

fn knock_for(lab: &Lab, site: &Site, seconds: u32) {
    let knock = Knock { seconds, ..knock("lamp") };
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, site.key("laptop").seal(&knock).as_bytes()).is_some());
}

/// The lines that begin with this word: address and time of each.
fn notes(site: &Site, word: &str) -> Vec<(String, f64)> {
    let text = fs::read_to_string(site.path("notes")).unwrap_or_default();
    let line = |line: &str| {
        let mut args = line.split(' ');
        (args.next() == Some(word))
            .then(|| (args.next().unwrap().to_owned(), args.next().unwrap().parse().unwrap()))
    };
    text.lines().filter_map(line).collect()
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

#[test]
fn an_action_is_undone_on_time_and_once() {
    let Some(lab) = Lab::new() else { return };
    let site = site(2);
    let _daemon = Daemon::start(&lab.server, &site);
    knock_for(&lab, &site, 0);
    let start = now();
    assert!(within(SOON, || notes(&site, "on").len() == 1));
    assert!(within(Duration::from_secs(4), || notes(&site, "off").len() == 1));
    let (address, at) = notes(&site, "off").remove(0);
    assert_eq!(address, CLIENT4.to_string());
    assert!((1.8..3.0).contains(&(at - start)), "{}", at - start);
    assert!(within(SOON, || site.audit_of("expired").len() == 1), "{:?}", site.audit());
    assert_eq!((notes(&site, "off").len(), fs::read_dir(site.path("state/undo")).unwrap().count()), (1, 0));
}

#[test]
fn a_second_knock_delays_the_undo_task_to_its_own_end_and_a_shorter_one_does_not_change_it() {
    let Some(lab) = Lab::new() else { return };
    let site = site(2);
    let _daemon = Daemon::start(&lab.server, &site);
    knock_for(&lab, &site, 0);
    std::thread::sleep(Duration::from_secs(1));
    let start = now();
    knock_for(&lab, &site, 3);
    knock_for(&lab, &site, 1);
    assert!(within(Duration::from_secs(6), || !notes(&site, "off").is_empty()));
    let off = notes(&site, "off");
    assert!((2.8..4.2).contains(&(off[0].1 - start)), "{}", off[0].1 - start);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!((notes(&site, "on").len(), notes(&site, "off").len()), (3, 1));
}

#[test]
fn an_overdue_undo_task_runs_within_a_second_of_the_start_and_others_on_time() {
    let Some(lab) = Lab::new() else { return };
    for (stop, waits) in [("kill -9", 1), ("kill -9", 3), ("SIGTERM", 3)] {
        let site = site(2);
        let mut daemon = Daemon::start(&lab.server, &site);
        knock_for(&lab, &site, 0);
        let due = now() + 2.0;
        match stop {
            "SIGTERM" => assert!(daemon.terminate().success()),
            _ => daemon.kill9(),
        }
        std::thread::sleep(Duration::from_secs(waits));
        assert!(notes(&site, "off").is_empty(), "no daemon was running");
        let started = now();
        let _next = Daemon::start(&lab.server, &site);
        assert!(within(Duration::from_secs(3), || !notes(&site, "off").is_empty()), "{stop} {waits}");
        let at = notes(&site, "off")[0].1;
        assert!(at >= due - 0.2 && at <= due.max(started) + 1.0, "{stop} {waits}: {} late", at - due);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(notes(&site, "off").len(), 1);
    }
}

#[test]
fn an_action_whose_undo_task_cannot_be_written_is_not_run() {
    let Some(lab) = Lab::new() else { return };
    let site = site(2);
    let _daemon = Daemon::start(&lab.server, &site);
    let undo = site.path("state/undo");
    fs::remove_dir(&undo).unwrap();
    knock_for(&lab, &site, 0);
    assert!(within(SOON, || site.audit_of("failed").len() == 1), "{:?}", site.audit());
    assert!(site.audit_of("failed")[0]["detail"].as_str().unwrap().contains("undo"));
    assert!(notes(&site, "on").is_empty());
    fs::create_dir(&undo).unwrap();
    knock_for(&lab, &site, 0);
    assert!(within(SOON, || notes(&site, "on").len() == 1));
}

#[test]
fn an_undo_task_that_is_killed_while_it_runs_is_reported_and_never_run_again() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    let started = site.path("began");
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.lamp]\nrun = [\"/bin/true\"]\nfor = \"1s\"\n\
         undo = [\"/bin/sh\", \"-c\", \"echo x >> {}; exec sleep 5\"]\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"lamp\"]\n",
        started.display()
    );
    site.write_config("", &rest);
    let mut daemon = Daemon::start(&lab.server, &site);
    knock_for(&lab, &site, 0);
    assert!(within(Duration::from_secs(3), || started.exists()));
    daemon.kill9();
    let next = Daemon::start(&lab.server, &site);
    assert!(next.log().contains("may not have run"), "{}", next.log());
    assert_eq!(site.audit_of("failed").len(), 1);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(fs::read_to_string(&started).unwrap(), "x\n");
}

#[test]
fn the_output_of_a_command_is_logged_and_its_files_are_private() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", "");
    let created = site.path("made");
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.lamp]\n\
         run = [\"/bin/sh\", \"-c\", \"printf 'a\\\\033[1mb\\\\nspa-knockd: fake\\\\n'; ls /proc/self/fd | wc -l; /usr/bin/touch {}\"]\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"lamp\"]\n",
        created.display()
    );
    site.write_config("", &rest);
    // The process that starts the daemon may leave descriptors open.
    let mut command = std::process::Command::new("sh");
    let daemon = Daemon::command(&site);
    let args: Vec<_> = daemon.get_args().map(|word| word.to_str().unwrap()).collect();
    command
        .args(["-c", "exec 7</etc/passwd 9>/dev/null; exec \"$0\" \"$@\""])
        .arg(daemon.get_program())
        .args(args);
    let daemon = Daemon::start_command(&lab.server, command);
    knock_for(&lab, &site, 0);
    // `ls` lists four descriptors: the three standard streams and the folder that it reads.
    let expected = r"laptop: lamp printed: a\u{1b}[1mb\nspa-knockd: fake\n4";
    assert!(within(SOON, || daemon.log().contains(expected)), "{}", daemon.log());
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&created).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_undo_task_is_on_disk_under_its_final_name_before_the_action_begins() {
    let Some(lab) = Lab::new() else { return };
    let site = site(60);
    let daemon = Daemon::start(&lab.server, &site);
    let log = site.path("calls");
    let _strace = Strace::attach(daemon.id(), &["-f", "-y", "-e", "trace=rename,fsync,execve"], &log);
    knock_for(&lab, &site, 0);
    assert!(within(SOON, || notes(&site, "on").len() == 1));
    let calls = fs::read_to_string(&log).unwrap();
    let place = |call: &str, path: &str| {
        let found = calls.lines().position(|line| line.contains(call) && line.contains(path));
        found.unwrap_or_else(|| panic!("no {call} of {path}:\n{calls}"))
    };
    let (written, renamed) = (place("fsync(", "undo/1.new"), place("rename(", "undo/1.new"));
    let (synced, started) = (place("fsync(", "state/undo>"), place("execve(", "/bin/sh"));
    assert!(written < renamed && renamed < synced && synced < started, "{calls}");
}
