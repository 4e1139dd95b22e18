//! A daemon that is the first process of a container: signals end it although it has no parent there, and it waits for
//! the processes that commands leave behind.

use std::fs;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, SOON, Site, ask, knock, open_ssh, within};

fn children_of(process: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// Name and state of a process: `(sleep) S`.
fn state_of(process: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn it_waits_for_the_orphans_of_commands_and_no_command_loses_its_exit_status() {
    let Some(lab) = Lab::new() else { return };
    // The orphan has a session of its own: nothing else of the daemon knows it.
    let orphan = "setsid sleep 0.3 & exit 3";
    let rest = open_ssh(2).replace("[\"open-ssh\"]", "[\"open-ssh\", \"leave\"]")
        + &format!("[action.leave]\nrun = [\"/bin/sh\", \"-c\", \"{orphan}\"]\n");
    let site = Site::new("", &rest);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", Daemon::PROGRAM]);
    command.args(Daemon::arguments(&site));
    let mut unshare = Daemon::start_command(&lab.server, command);
    let daemon = unshare.watcher().expect("a child of unshare");
    let (socket, laptop) = (lab.client.udp(CLIENT4), site.key("laptop"));
    for _ in 0..5 {
        assert!(ask(&socket, SERVER4, laptop.seal(&knock("leave")).as_bytes()).is_some());
    }
    let failed = || site.audit_of("failed").iter().filter(|line| line["detail"] == "exit status: 3").count();
    assert!(within(SOON, || failed() == 5), "{:?}", site.audit());
    let names = || children_of(daemon).into_iter().map(state_of).collect::<Vec<_>>();
    assert!(within(SOON, || names() == ["(spa-knock-watch) S"]), "{:?}", names());

    let asked = Instant::now();
    kill(daemon, Signal::SIGTERM).unwrap();
    assert!(within(SOON, || unshare.has_exited()), "SIGTERM ends it");
    println!("ended {} ms after SIGTERM", asked.elapsed().as_millis());
    assert!(unshare.exit_status().unwrap().success(), "{}", unshare.log());
}
