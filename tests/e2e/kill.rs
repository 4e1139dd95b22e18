//! A daemon that is killed at any system call, as it starts and as it acts: no knock acts twice, and the next
//! honest one works.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use crate::net::{CLIENT4, Daemon, Key, Lab, SERVER4, Site, ask, full, knock, within};

/// Calls of the keeper, and after how many of each it is killed at the most.
const CALLS: [(&str, u32); 9] = [
    ("pwrite64", 2),
    ("fsync", 6),
    ("rename", 3),
    ("write", 8),
    ("sendto", 8),
    ("recvfrom", 10),
    ("sendmsg", 2),
    ("poll", 8),
    ("openat", 40),
];

/// A knock that adds its argument to a file, from a client whose clock is fast.
fn note(key: &Key, argument: &str) -> Vec<u8> {
    let mut knock = knock("note");
    knock.timestamp = knock.timestamp.plus(Duration::from_secs(20));
    knock.argument = argument.parse().unwrap();
    key.seal(&knock).as_bytes().to_vec()
}

fn site() -> Site {
    let site = Site::new("", "");
    let notes = site.path("notes");
    site.write_config(
        "",
        &format!(
            "[action.note]\nrun = [\"/bin/sh\", \"-c\", \"echo $0 >> {}\", \"{{argument}}\"]\n\
             [client.laptop]\nkey = \"laptop.key\"\nallow = [\"note\"]\n",
            notes.display()
        ),
    );
    site
}

/// The daemon, killed by the kernel as it makes this call for the `nth` time.
fn doomed(site: &Site, call: &str, nth: u32) -> Command {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
    command.arg("-e").arg(format!("inject={call}:signal=SIGKILL:when={nth}"));
    command.arg(env!("CARGO_BIN_EXE_spa-knockd")).arg("run").arg("-c").arg(site.path("spa-knockd.toml"));
    command
}

fn sweep(calls: &[(&str, u32)]) {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let laptop = site.key("laptop");
    let every = if full() { 1 } else { 4 };
    let (mut points, mut killed) = (0, 0);
    for &(call, most) in calls {
        for nth in (1..=most).step_by(every) {
            let point = format!("{call}-{nth}");
            let old = note(&laptop, &point);
            let mut dying = Daemon::launch(&lab.server, doomed(&site, call, nth));
            assert!(within(Duration::from_secs(5), || dying.says("ready") || dying.has_ended()), "{point}");
            let socket = lab.client.udp(CLIENT4);
            socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
            ask(&socket, SERVER4, &old);
            points += 1;
            if within(Duration::from_millis(100), || dying.has_ended()) {
                killed += 1;
            } else if let Some(daemon) = dying.watcher() {
                // The point lies beyond what it did. Of strace, the daemon is the child.
                kill(daemon, Signal::SIGKILL).unwrap();
                assert!(within(Duration::from_secs(2), || dying.has_ended()), "{point}");
            }

            let mut next = Daemon::start(&lab.server, &site);
            for _ in 0..2 {
                assert!(
                    ask(&short(&lab), SERVER4, &old).is_none_or(|_| notes(&site, &point) <= 1),
                    "{point}"
                );
            }
            let fresh = note(&laptop, &format!("{point}-next"));
            assert!(
                ask(&lab.client.udp(CLIENT4), SERVER4, &fresh).is_some(),
                "{point}: the next honest knock"
            );
            assert!(
                within(Duration::from_secs(1), || notes(&site, &format!("{point}-next")) == 1),
                "{point}"
            );
            next.kill9();
        }
    }
    println!("{killed} of {points} points killed it");
    assert!(killed * 2 >= points, "{killed} of {points} points killed it");
    let text = fs::read_to_string(site.path("notes")).unwrap();
    let mut counts: HashMap<&str, u32> = HashMap::new();
    text.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    assert!(counts.values().all(|&times| times == 1), "{counts:?}");
}

fn short(lab: &Lab) -> std::net::UdpSocket {
    let socket = lab.client.udp(CLIENT4);
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

fn notes(site: &Site, argument: &str) -> usize {
    let text = fs::read_to_string(site.path("notes")).unwrap_or_default();
    text.lines().filter(|line| *line == argument).count()
}

#[test]
fn a_daemon_killed_at_a_write_acts_on_no_knock_twice() {
    sweep(&CALLS[..4]);
}

#[test]
fn a_daemon_killed_as_it_talks_acts_on_no_knock_twice() {
    sweep(&CALLS[4..8]);
}

#[test]
fn a_daemon_killed_as_it_opens_files_acts_on_no_knock_twice() {
    sweep(&CALLS[8..]);
}
