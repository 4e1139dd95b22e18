//! Knock sequences and port sequences read from the firewall's log: log rotation, and lines that unknown senders cause
//! other programs to write.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::flood::Memory;
use crate::net::{
    CLIENT4, Daemon, HitKind, KernelLog, Lab, Mounts, SERVER4, SERVER6, SOON, Site, await_time_step, full,
    hit_ports, limited, open_ssh, step, within,
};

const PREFIX: &str = "knock: ";
const DOOR: &str = "[a]\nsequence = 7000,8000:udp,9000\ntcpflags = syn\nseq_timeout = 20\n";

const TCP_7000: &str = "PROTO=TCP SPT=1 DPT=7000 WINDOW=1 RES=0x00 SYN URGP=0 ";
const UDP_8000: &str = "PROTO=UDP SPT=1 DPT=8000 LEN=8 ";
const TCP_9000: &str = "PROTO=TCP SPT=1 DPT=9000 WINDOW=1 RES=0x00 SYN URGP=0 ";

/// A site with a door of knockd that opens ssh, and with `capture = "udp"` as on a host where capturing is not allowed.
fn site(log: &str) -> Site {
    let site = Site::new("", "");
    let log_file = format!("[options]\nlogfile = {}\n", site.path("log").display());
    fs::write(site.path("knockd.conf"), format!("{log_file}{DOOR}open = tcp/22\nfor = 2s\n")).unwrap();
    write_config(&site, log, "");
    site
}

fn write_config(site: &Site, log: &str, ports: &str) {
    let knockd = site.path("knockd.conf").display().to_string();
    let server = format!("capture = \"udp\"\npacket-log = \"{log}\"\npacket-log-prefix = \"{PREFIX}\"\n");
    site.write_config(&server, &format!("{}\n[legacy]\nknockd = \"{knockd}\"\n{ports}", open_ssh(2)));
}

/// A site whose log is a file in its directory.
fn site_with_file() -> (Site, PathBuf) {
    let site = site("");
    let file = site.path("kern.log");
    write_config(&site, file.to_str().unwrap(), "");
    (site, file)
}

fn knock(lab: &Lab, server: IpAddr, ports: &[&str]) {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args(["legacy", &server.to_string()]).args(ports);
    assert!(lab.client.output(&mut command).status.success());
}

/// A directory that everyone can read.
fn open_folder() -> TempDir {
    let mode = fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().prefix("spa-knock-").permissions(mode).tempdir().unwrap()
}

fn granted(site: &Site) -> usize {
    site.audit_of("granted").len()
}

/// How often this stage is in the log.
fn stages(site: &Site, stage: u8) -> usize {
    let log = fs::read_to_string(site.path("log")).unwrap_or_default();
    log.matches(&format!("a: Stage {stage}\n")).count()
}

/// The log followers of a daemon's watchers.
fn followers(daemon: &Daemon) -> Vec<Pid> {
    daemon.children().into_iter().flat_map(children).collect()
}

fn children(process: Pid) -> Vec<Pid> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().map(|child| Pid::from_raw(child.parse().unwrap())).collect()
}

fn is_running(process: Pid) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_logged_knock_sequence_opens_a_port_during_rotation_and_truncation() {
    let Some(lab) = Lab::new() else { return };
    let (site, file) = site_with_file();
    lab.server.echo(22);
    let log = KernelLog::start(&lab.server, "lan0", &file, PREFIX);
    knock(&lab, SERVER4, &["7000", "8000:udp", "9000"]);
    // Lines from before the start must be ignored.
    let daemon = Daemon::start(&lab.server, &site);
    let opens = |server, times| {
        assert!(within(SOON, || granted(&site) == times), "{}", daemon.log());
        assert!(lab.client.reaches(server, 22), "open for the client");
        assert!(!lab.neighbor.reaches(server, 22), "closed for everyone else");
        lab.client.wait_until_closed(server, 22);
    };
    knock(&lab, SERVER4, &["7000", "8000:udp", "9000"]);
    opens(SERVER4, 1);
    knock(&lab, SERVER6, &["7000"]);
    log.rename(1);
    knock(&lab, SERVER6, &["8000:udp"]);
    log.reopen();
    knock(&lab, SERVER6, &["9000"]);
    opens(SERVER6, 2);
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || stages(&site, 1) == 3), "read before the truncation");
    log.truncate();
    knock(&lab, SERVER4, &["8000:udp", "9000"]);
    opens(SERVER4, 3);
    for record in site.audit_of("granted") {
        assert_eq!((&record["via"], &record["action"]), (&"knockd".into(), &"a".into()));
    }
}

#[test]
fn a_logged_port_sequence_opens_a_port_where_capturing_is_not_allowed() {
    let Some(lab) = Lab::new() else { return };
    let (site, file) = site_with_file();
    write_config(&site, file.to_str().unwrap(), "[ports]\n");
    lab.server.echo(22);
    let _log = KernelLog::start(&lab.server, "lan0", &file, PREFIX);
    let daemon = Daemon::start(&lab.server, &site);
    // Port sequences of the time step in which the first daemon started are not accepted.
    await_time_step(5);
    let ports = site.key("laptop").ports(step().after(), Some(CLIENT4));
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Mixed, &ports[..7]);
    assert_eq!(granted(&site), 0, "one too few");
    hit_ports(&lab.client, CLIENT4, SERVER4, HitKind::Empty, &ports[7..]);
    assert!(within(SOON, || granted(&site) == 1), "{}", daemon.log());
    assert_eq!(site.audit_of("granted")[0]["via"], "ports");
    lab.client.wait_until_closed(SERVER4, 22);
    // Datagrams are still received by the socket, and knock sequences from the log.
    assert!(lab.client.output(&mut site.knock(SERVER4, &["open-ssh"])).status.success());
    knock(&lab, SERVER4, &["7000", "8000:udp", "9000"]);
    assert!(within(SOON, || granted(&site) == 3), "{}", daemon.log());
}

#[test]
fn a_burst_of_lines_does_not_delay_a_knock_until_the_next_line() {
    let Some(lab) = Lab::new() else { return };
    let (site, file) = site_with_file();
    let daemon = Daemon::start(&lab.server, &site);
    let log = KernelLog::start(&lab.neighbor, "eth0", &file, PREFIX);
    let begin = format!("Nov 24 14:20:24 bastion kernel: [1.5] {PREFIX}IN=lan0 OUT= MAC= ");
    for (times, fillers) in [(1, 300), (2, 1_000), (3, 257)] {
        let mut text = "Nov 24 14:20:24 bastion kernel: x\n".repeat(fillers);
        for transport in [TCP_7000, UDP_8000, TCP_9000] {
            text += &format!(
                "{begin}SRC=10.77.9.{times} DST=10.77.0.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF {transport}\n"
            );
        }
        log.write(text.trim_end());
        assert!(within(SOON, || granted(&site) == times), "{times}: {}", daemon.log());
    }
}

#[test]
fn lines_that_unknown_senders_cause_open_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (site, file) = site_with_file();
    let log = KernelLog::start(&lab.server, "lan0", &file, PREFIX);
    let daemon = Daemon::start(&lab.server, &site);
    let head = "IN=lan0 OUT= MAC= SRC=10.77.0.2 DST=10.77.0.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF ";
    let lines = |form: &str| {
        for transport in [TCP_7000, UDP_8000, TCP_9000] {
            log.write(&form.replace("MESSAGE", &format!("{head}{transport}")));
        }
    };
    for form in [
        "Nov 24 14:20:24 bastion sshd[7]: Invalid user knock: MESSAGE from 203.0.113.7",
        "Nov 24 14:20:24 bastion sshd[7]: kernel: knock: MESSAGE",
        "Nov 24 14:20:24 bastion user.notice kernel: knock: MESSAGE",
        "Nov 24 14:20:24 bastion kernel[7]: knock: MESSAGE",
        "Nov 24 14:20:24 bastion kernel: usb 1-1: Product: knock: MESSAGE",
        "Nov 24 14:20:24 bastion kernel: [1.5] other: MESSAGE",
        "Nov 24 14:20:24 bastion kernel: [1.5] MESSAGE",
        "Nov 24 14:20:24 bastion kernel: [1.5] knock: IN=lan0 OUT= MAC= SRC=203.0.113.7 DST=10.77.0.1 LEN=88 TOS=0x00 PREC=0x00 TTL=64 ID=0 PROTO=ICMP TYPE=3 CODE=1 [MESSAGE] ",
        "knock: MESSAGE",
    ] {
        lines(form);
    }
    let warned = "programs other than the kernel write to it";
    assert!(within(SOON, || daemon.log().contains(warned)), "{}", daemon.log());
    assert_eq!(daemon.log().matches(warned).count(), 1, "{}", daemon.log());
    let checked = lab.server.output(&mut site.admin(&["check"]));
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.contains(warned), "{checked}");
    assert!(
        checked.contains("no recent packets with the prefix \"knock: \", but some with \"\""),
        "{checked}"
    );
    // The same lines in the kernel's format, from another address.
    for transport in [TCP_7000, UDP_8000, TCP_9000] {
        let message = format!("{}{transport}", head.replace("10.77.0.2", "10.77.0.9"));
        log.write(&format!("Nov 24 14:20:24 bastion kernel: [1.5] knock: {message}"));
    }
    assert!(within(SOON, || granted(&site) > 0), "{}", daemon.log());
    let opened: Vec<_> = site.audit_of("granted").iter().map(|record| record["address"].clone()).collect();
    assert_eq!(opened, ["10.77.0.9"]);
}

#[test]
fn a_flood_of_lines_locks_no_one_out_and_takes_no_memory() {
    let Some(lab) = Lab::new() else { return };
    let (site, file) = site_with_file();
    let log = KernelLog::start(&lab.server, "lan0", &file, PREFIX);
    let daemon = Daemon::start(&lab.server, &site);
    // The first child is the watcher for knock datagrams.
    let watcher = daemon.children()[1];
    let before = Memory::of(watcher).now;
    let (rate, knocks) = if full() { (20_000, 20) } else { (5_000, 5) };
    let is_done = AtomicBool::new(false);
    let line = |source: Ipv4Addr, transport: &str| {
        log.write(&format!(
            "Nov 24 14:20:24 bastion kernel: [1.5] {PREFIX}IN=lan0 OUT= MAC= SRC={source} DST=10.77.0.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF {transport}"
        ));
    };
    let (written, took) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let (start, mut written) = (Instant::now(), 0_u32);
            while !is_done.load(Ordering::Relaxed) {
                let due = u32::try_from(start.elapsed().as_millis()).unwrap() * (rate / 1_000);
                for number in written..due {
                    line(Ipv4Addr::from(0x0B00_0000 + number), TCP_7000);
                }
                written = due;
                thread::sleep(Duration::from_millis(1));
            }
            (written, start.elapsed())
        });
        thread::sleep(Duration::from_millis(500));
        for knock in 0..knocks {
            for transport in [TCP_7000, UDP_8000, TCP_9000] {
                line(Ipv4Addr::new(10, 77, 9, knock), transport);
                thread::sleep(Duration::from_millis(50));
            }
            let most = usize::from(knock) + 1;
            within(SOON, || granted(&site) == most);
            thread::sleep(Duration::from_millis(if full() { 1_000 } else { 100 }));
        }
        is_done.store(true, Ordering::Relaxed);
        flood.join().unwrap()
    });
    let (through, most) = (granted(&site), Memory::of(watcher).peak);
    println!(
        "{written} lines in {took:?}: {through} of {knocks} accepted; watcher: {before} KiB before, at most {most} KiB"
    );
    assert_eq!(through, usize::from(knocks), "{}", daemon.log());
    assert!(most - before <= 3 << 10, "{most} KiB");
}

#[test]
fn the_log_follower_has_no_capabilities_and_exits_with_its_watcher() {
    let Some(lab) = Lab::new() else { return };
    let (site, _) = site_with_file();
    let folder = open_folder();
    let file = folder.path().join("kern.log");
    write_config(&site, file.to_str().unwrap(), "[ports]\n");
    let _log = KernelLog::start(&lab.server, "lan0", &file, PREFIX);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    chown(&file, Some(65_534), Some(65_534)).unwrap();
    let daemon = Daemon::start(&lab.server, &site);
    let before = followers(&daemon);
    assert_eq!(before.len(), 2, "one for each watcher");
    for follower in &before {
        let status = fs::read_to_string(format!("/proc/{follower}/status")).unwrap();
        for line in [
            "Name:\tspa-knock-log\n",
            "Uid:\t65534\t65534\t65534\t65534\n",
            "Gid:\t65534\t65534\t65534\t65534\n",
            "CapPrm:\t0000000000000000\n",
            "CapEff:\t0000000000000000\n",
            "NoNewPrivs:\t1\n",
        ] {
            assert!(status.contains(line), "{line} {status}");
        }
    }
    for watcher in daemon.children() {
        kill(watcher, Signal::SIGKILL).unwrap();
    }
    assert!(within(SOON, || !before.iter().any(|&follower| is_running(follower))), "they exit");
    let again = |times| within(SOON, || daemon.log().matches("watching again").count() == times);
    assert!(again(2) && followers(&daemon).len() == 2, "{}", daemon.log());
    // A log follower that dies is replaced together with its watcher.
    let second = followers(&daemon);
    kill(second[0], Signal::SIGKILL).unwrap();
    assert!(within(SOON, || !followers(&daemon).contains(&second[0]) && followers(&daemon).len() == 2));
    assert!(again(3), "{}", daemon.log());
    knock(&lab, SERVER4, &["7000", "8000:udp", "9000"]);
    assert!(within(SOON, || granted(&site) == 1), "{}", daemon.log());
    let last = followers(&daemon);
    drop(daemon);
    assert!(within(SOON, || !last.iter().any(|&follower| is_running(follower))), "they exit, too");
}

#[test]
fn a_missing_log_is_waited_for_and_a_log_that_everyone_can_write_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let (site, file) = site_with_file();
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("kern.log: does not exist yet; waiting for it"), "{}", daemon.log());
    let log = KernelLog::start(&lab.server, "lan0", &file, PREFIX);
    knock(&lab, SERVER4, &["7000", "8000:udp", "9000"]);
    assert!(within(SOON, || granted(&site) == 1), "{}", daemon.log());
    drop((daemon, log));
    // A log that appears later may belong to another user, whose files root without capabilities cannot read.
    let folder = open_folder();
    let other = folder.path().join("kern.log");
    write_config(&site, other.to_str().unwrap(), "");
    let daemon = Daemon::start(&lab.server, &site);
    let log = KernelLog::start(&lab.server, "lan0", &folder.path().join("new"), PREFIX);
    fs::set_permissions(folder.path().join("new"), fs::Permissions::from_mode(0o600)).unwrap();
    chown(folder.path().join("new"), Some(65_534), Some(65_534)).unwrap();
    fs::rename(folder.path().join("new"), &other).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")), "{}", daemon.log());
    knock(&lab, SERVER4, &["7000", "8000:udp", "9000"]);
    assert!(within(SOON, || granted(&site) == 2), "{}", daemon.log());
    drop((daemon, log));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let path = file.display();
    for (path, reason) in [
        (path.to_string(), format!("{path}: its mode allows anyone to write to it")),
        ("/nonexistent/kern.log".to_owned(), "/nonexistent: no such file or directory".to_owned()),
    ] {
        write_config(&site, &path, "");
        let mut daemon = Daemon::launch(&lab.server, Daemon::command(&site));
        assert!(within(SOON, || daemon.has_exited()), "{}", daemon.log());
        assert!(daemon.log().contains(&reason), "{}", daemon.log());
        assert!(!daemon.exit_status().unwrap().success());
    }
}

#[test]
fn the_systemd_journal_is_read_by_journalctl_and_only_kernel_entries_are_used() {
    let Some(lab) = Lab::new() else { return };
    let site = site("journal");
    // Replace journalctl by a script that prints a file of this test. The script is not root, so it needs access to it.
    let folder = open_folder();
    let (program, entries) = (folder.path().join("journalctl"), folder.path().join("entries"));
    let args_file = folder.path().join("args");
    for file in [&entries, &args_file] {
        fs::write(file, "").unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o666)).unwrap();
    }
    let script = format!(
        "#!/bin/sh\necho \"$@\" >>{}\ncase $* in *--follow*) exec tail -n +1 -f {} ;; esac\necho '{{}}'\n",
        args_file.display(),
        entries.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mounts = Mounts::new();
    mounts.mount(&["--bind", program.to_str().unwrap()], std::path::Path::new("/usr/bin/journalctl"));
    let [nsenter, entrance] = mounts.nsenter();
    let mut command = std::process::Command::new(nsenter);
    command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::arguments(&site));
    let mut daemon = Daemon::start_command(&lab.server, command);
    let args = || fs::read_to_string(&args_file).unwrap();
    assert!(within(SOON, || args().contains("--follow")), "{}", daemon.log());
    // Each from another address, the kernel's last.
    let mut lines = String::new();
    for (source, transport, facility) in [(3, "syslog", "0"), (4, "kernel", "1"), (2, "kernel", "0")] {
        for port in [TCP_7000, UDP_8000, TCP_9000] {
            let message = format!(
                "knock: IN=lan0 OUT= MAC= SRC=10.77.0.{source} DST=10.77.0.1 LEN=40 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF {port}"
            );
            let entry = serde_json::json!({
                "__REALTIME_TIMESTAMP": "1795530024000000", "_TRANSPORT": transport,
                "SYSLOG_FACILITY": facility, "MESSAGE": message,
            });
            lines += &format!("{entry}\n");
        }
    }
    fs::write(&entries, lines).unwrap();
    assert!(within(SOON, || granted(&site) > 0), "{}", daemon.log());
    assert_eq!(site.audit_of("granted").len(), 1);
    assert_eq!(site.audit_of("granted")[0]["address"], CLIENT4.to_string());
    // The real journalctl accepts the same arguments.
    let args = args();
    let without_follow: Vec<&str> =
        args.lines().last().unwrap().split_whitespace().filter(|arg| *arg != "--follow").collect();
    let real = limited("journalctl").args(without_follow).output().unwrap();
    assert!(real.status.success(), "{}", String::from_utf8_lossy(&real.stderr));
    // The script does not notice that its output is no longer read, but it is killed anyway.
    let left = followers(&daemon);
    assert_eq!(left.len(), 1);
    assert!(daemon.terminate().success());
    assert!(within(SOON, || !is_running(left[0])), "it exits, too");
}
