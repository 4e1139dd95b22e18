//! The two processes: the watcher's privileges and descriptors, its replacement when it dies, and the messages to the
//! service manager.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::{CLIENT4, Daemon, KNOCK_PORT, Lab, SERVER4, Site, ask, knock, open_ssh, within};

const SOON: Duration = Duration::from_secs(2);
/// CAP_NET_ADMIN and CAP_NET_RAW in the sets of /proc/PID/status.
const NET_ADMIN_AND_RAW: &str = "0000000000003000";
const NONE: &str = "0000000000000000";

fn status_of(process: Pid) -> String {
    fs::read_to_string(format!("/proc/{process}/status")).unwrap()
}

fn field(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_watcher_runs_as_nobody_without_capabilities_and_files() {
    let Some(lab) = Lab::new() else { return };
    for server_lines in ["", "capture = \"udp\"\n"] {
        let site = Site::new(server_lines, &open_ssh(2));
        let daemon = Daemon::start(&lab.server, &site);
        let watcher = daemon.watcher().expect("a child of the daemon");
        let status = status_of(watcher);
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        assert_eq!(field(&status, "Uid"), vec![nobody.uid.to_string(); 4]);
        assert_eq!(field(&status, "Gid"), vec![nobody.gid.to_string(); 4]);
        assert!(field(&status, "Groups").is_empty());
        for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
            assert_eq!(field(&status, set), [NONE], "{set}");
        }
        assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
        assert_eq!(field(&status, "Seccomp"), ["2"]);
        let limits = fs::read_to_string(format!("/proc/{watcher}/limits")).unwrap();
        for limit in
            ["Max core file size        0 ", "Max processes             0 ", "Max open files            2 "]
        {
            assert!(limits.lines().any(|line| line.starts_with(limit)), "{limit}: {limits}");
        }
        assert!(!limits.contains("Max address space         unlimited"), "{limits}");
        // The files in /proc of a process that is not dumpable belong to root.
        assert_eq!(fs::metadata(format!("/proc/{watcher}/mem")).unwrap().uid(), 0);
        // The channel, a socket or /dev/null, the log, the descriptor for signals, captures and the descriptors of
        // libpcap.
        for descriptor in fs::read_dir(format!("/proc/{watcher}/fd")).unwrap() {
            let target = fs::read_link(descriptor.unwrap().path()).unwrap();
            let target = target.to_str().unwrap();
            let harmless = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
            assert!(harmless.iter().any(|kind| target.starts_with(kind)), "{target}");
        }
        assert!(
            ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some(),
            "the daemon works"
        );
    }
}

/// Makes `nobody` the owner of the site, with a copy of the programs, because the build may be in a home folder.
fn give_to_nobody(site: &Site) {
    fs::copy(env!("CARGO_BIN_EXE_spa-knockd"), site.path("spa-knockd")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_spa-knock-watcher"), site.path("spa-knock-watcher")).unwrap();
    let owned = Command::new("chown").args(["-R", "nobody"]).arg(site.folder()).status().unwrap();
    assert!(owned.success());
}

/// `spa-knockd` as `nobody`, with the capabilities that the systemd unit for an unprivileged user grants.
fn as_nobody(site: &Site, subcommand: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
    for set in ["--bounding-set", "--inh-caps", "--ambient-caps"] {
        command.args([set, "-all,+net_admin,+net_raw"]);
    }
    command.arg(site.path("spa-knockd")).arg(subcommand).arg("-c").arg(site.path("spa-knockd.toml"));
    command
}

#[test]
fn a_daemon_that_is_not_root_passes_no_capabilities_to_other_processes() {
    for (server_lines, backend) in [("", "nftables"), ("capture = \"udp\"\n", "nftables"), ("", "iptables")] {
        let Some(lab) = Lab::new() else { return };
        lab.server.echo(22);
        let site = Site::new("", "");
        let status = site.path("status");
        let status_action =
            format!("[action.look]\nrun = [\"/bin/cp\", \"/proc/self/status\", \"{}\"]\n", status.display());
        let rest = open_ssh(2).replace("[\"open-ssh\"]", "[\"open-ssh\", \"look\"]") + &status_action;
        let rest = rest.replace("[firewall]", &format!("[firewall]\nbackend = \"{backend}\""));
        site.write_config(server_lines, &rest);
        give_to_nobody(&site);
        let daemon = Daemon::start_command(&lab.server, as_nobody(&site, "run"));
        let check = lab.server.output(&mut as_nobody(&site, "check"));
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

        let keeper = status_of(daemon.id());
        assert_ne!(field(&keeper, "Uid")[0], "0");
        for (set, expected) in
            [("CapPrm", NET_ADMIN_AND_RAW), ("CapEff", NET_ADMIN_AND_RAW), ("CapInh", NONE), ("CapAmb", NONE)]
        {
            assert_eq!(field(&keeper, set), [expected], "{set} of the keeper");
        }
        let watcher = status_of(daemon.watcher().expect("a child of the daemon"));
        assert_eq!(field(&watcher, "Seccomp"), ["2"]);
        let (socket, laptop) = (lab.client.udp(CLIENT4), site.key("laptop"));
        assert!(ask(&socket, SERVER4, laptop.seal(&knock("look")).as_bytes()).is_some());
        assert!(within(SOON, || site.audit_of("done").len() == 1), "{:?}", site.audit());
        let command = fs::read_to_string(&status).unwrap();
        for (process, status) in [("the watcher", watcher), ("a command", command)] {
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                assert_eq!(field(&status, set), [NONE], "{set} of {process}");
            }
        }
        assert!(!lab.client.reaches(SERVER4, 22), "nft, or iptables, worked");
        assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
        assert!(lab.client.reaches(SERVER4, 22), "netlink, or ipset, works");
        lab.client.wait_until_closed(SERVER4, 22);
        // Restoring the table and starting another watcher must also work later.
        lab.server.nft("flush ruleset");
        lab.server.run("ipset -q destroy");
        kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
        assert!(within(SOON, || daemon.log().contains("watching again")));
        assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
        lab.client.wait_until_closed(SERVER4, 22);
    }
}

#[test]
fn the_keeper_has_only_the_capabilities_that_its_config_needs() {
    let Some(lab) = Lab::new() else { return };
    // CAP_KILL 5, CAP_SETGID 6, CAP_SETUID 7, CAP_SETPCAP 8, CAP_NET_ADMIN 12, CAP_NET_RAW 13.
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let status = status_of(daemon.id());
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&status, set), ["00000000000031e0"], "{set}");
    }
    assert_eq!(
        (field(&status, "CapInh"), field(&status, "CapAmb")),
        (vec!["0".repeat(16)], vec!["0".repeat(16)])
    );
    assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap() {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        assert_eq!(field(&status, "CapEff"), ["00000000000031e0"], "every thread");
    }
    assert_eq!(fs::metadata(format!("/proc/{}/mem", daemon.id())).unwrap().uid(), 0);
    // These capabilities are enough for everything that it does later.
    kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")));
    daemon.reload();
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());

    let command = "[action.lamp]\nrun = [\"/bin/true\"]\n";
    site.write_config("", &(open_ssh(2) + command));
    daemon.reload();
    assert!(daemon.log().contains("these changes need a restart"), "{}", daemon.log());
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &site);
    assert_ne!(field(&status_of(daemon.id()), "CapEff"), ["00000000000031e0"], "commands may need anything");
}

#[test]
fn the_watcher_inherits_no_descriptor_from_the_process_that_started_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let command = Daemon::command(&site);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 7</etc/passwd", "sh"]).arg(command.get_program()).args(command.get_args());
    let daemon = Daemon::start_command(&lab.server, shell);
    let open = |process: Pid| fs::read_link(format!("/proc/{process}/fd/7")).ok();
    let is_inherited = |process: Pid| open(process).is_some_and(|file| file == Path::new("/etc/passwd"));
    assert!(!is_inherited(daemon.id()));
    assert!(!is_inherited(daemon.watcher().expect("a child of the daemon")));
}

#[test]
fn a_watcher_that_is_killed_is_replaced() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let first = daemon.watcher().expect("a child of the daemon");
    kill(first, Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.watcher().is_some_and(|watcher| watcher != first)
        && daemon.log().contains("watching again")));
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
}

#[test]
fn a_watcher_exits_shortly_after_its_keeper() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let mut daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher().expect("a child of the daemon");
    daemon.kill9();
    assert!(
        within(SOON, || !fs::exists(format!("/proc/{watcher}/fd/0")).unwrap()),
        "the watcher has exited too"
    );
}

#[test]
fn a_reload_moves_the_watcher_to_another_interface() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan1\"]\n", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    let laptop = site.key("laptop");
    assert_eq!(ask(&socket, SERVER4, &laptop.good()), None, "the client is at lan0");
    site.write_config("interfaces = [\"lan0\"]\n", &open_ssh(2));
    daemon.reload();
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
    site.write_config("interfaces = [\"lan9\"]\n", &open_ssh(2));
    daemon.reload();
    assert!(daemon.log().contains("lan9"));
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some(), "the old config stays");
}

#[test]
fn a_flushed_table_is_restored_by_the_next_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    lab.server.nft("flush ruleset");
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(!lab.neighbor.reaches(SERVER4, 22));
    assert!(lab.client.reaches(SERVER4, 22));
    lab.client.wait_until_closed(SERVER4, 22);
}

#[test]
fn the_service_manager_is_notified_when_the_gate_is_closed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let path = site.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = Daemon::command(&site);
    command.env("NOTIFY_SOCKET", &path);
    let mut daemon = Daemon::launch(&lab.server, command);
    let mut message = [0; 64];
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"READY=1");
    assert!(lab.server.nft("list table inet spa_knock").contains("tcp dport 22 jump gate"));
    assert!(daemon.terminate().success());
    let length = manager.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"STOPPING=1");
}

#[test]
fn watchdog_messages_are_sent_if_requested_and_stop_when_the_daemon_hangs() {
    let Some(lab) = Lab::new() else { return };
    for (process, is_requested) in [(None, true), (Some("1"), false)] {
        let site = Site::new("", &open_ssh(2));
        let path = site.path("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut command = Daemon::command(&site);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
        command.envs(process.map(|process| ("WATCHDOG_PID", process)));
        let daemon = Daemon::start_command(&lab.server, command);
        let next_message = || {
            let mut message = [0; 64];
            manager
                .recv(&mut message)
                .ok()
                .map(|length| String::from_utf8_lossy(&message[..length]).into_owned())
        };
        assert_eq!(next_message().as_deref(), Some("READY=1"));
        if !is_requested {
            assert_eq!(next_message(), None, "messages are requested from another process");
            continue;
        }
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(next_message().as_deref(), Some("WATCHDOG=1"));
            assert!(start.elapsed() < Duration::from_millis(600));
        }
        kill(daemon.id(), Signal::SIGSTOP).unwrap();
        while next_message().is_some() {}
        kill(daemon.id(), Signal::SIGCONT).unwrap();
        assert_eq!(next_message().as_deref(), Some("WATCHDOG=1"));
    }
}

fn add_wg9(lab: &Lab) {
    lab.server.ip("link add wg9 type veth peer name wg9p");
    lab.server.ip("link set wg9 up");
}

/// A daemon that watches lan0 and a second interface, which has been removed.
fn with_a_lost_interface(lab: &Lab) -> (Site, Daemon) {
    let site = Site::new("interfaces = [\"lan0\", \"wg9\"]\n", &open_ssh(2));
    add_wg9(lab);
    let daemon = Daemon::start(&lab.server, &site);
    lab.server.ip("link del wg9");
    assert!(within(SOON, || daemon.log().contains("watching the rest")));
    (site, daemon)
}

#[test]
fn a_removed_interface_does_not_affect_the_others_and_is_watched_again_when_it_returns() {
    let Some(lab) = Lab::new() else { return };
    let (site, daemon) = with_a_lost_interface(&lab);
    let socket = lab.client.udp(CLIENT4);
    let laptop = site.key("laptop");
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some(), "lan0 is watched");
    kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")));
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some(), "also by a watcher that starts without wg9");

    let before = daemon.watcher();
    add_wg9(&lab);
    assert!(
        within(Duration::from_secs(10), || daemon.watcher() != before),
        "a watcher of both interfaces replaces it"
    );
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
}

#[test]
fn the_host_stays_silent_while_the_watcher_is_replaced() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"\n", &open_ssh(2));
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    socket.connect((SERVER4, KNOCK_PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let first = daemon.watcher().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    for _ in 0..20 {
        socket.send(b"a probe").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "neither a reply nor ICMP");
    }
    assert!(daemon.watcher().is_some_and(|watcher| watcher != first));
}

#[test]
fn a_second_daemon_does_not_remove_the_gate_of_the_first() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let first = Site::new("", &open_ssh(2));
    let _daemon = Daemon::start(&lab.server, &first);
    let second = Site::new("port = 4000\n", &open_ssh(2).replace("tcp/22", "tcp/80"));
    let output = lab.server.output(&mut Daemon::command(&second));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another spa-knockd"));
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_distrusted_watcher_is_replaced_even_while_an_interface_is_missing() {
    let Some(lab) = Lab::new() else { return };
    let (site, daemon) = with_a_lost_interface(&lab);
    let (before, laptop) = (daemon.watcher(), site.key("laptop"));
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..8 {
        socket.send_to(&laptop.signed_garbage(), (SERVER4, KNOCK_PORT)).unwrap();
    }
    assert!(within(SOON, || daemon.log().contains("watching again")));
    assert!(within(SOON, || daemon.watcher() != before), "the old watcher is replaced");
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
}

#[test]
fn a_client_that_signs_invalid_datagrams_does_not_lock_out_others() {
    let Some(lab) = Lab::new() else { return };
    let added = "[client.phone]\nkey = \"phone.key\"\nallow = [\"open-ssh\"]\n";
    let site = Site::new("", &(open_ssh(2) + added));
    let phone = site.add_key("phone");
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..50 {
        socket.send_to(&phone.signed_garbage(), (SERVER4, KNOCK_PORT)).unwrap();
    }
    for _ in 0..10 {
        assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_some());
    }
    let log = daemon.log();
    assert_eq!(log.matches("signed but not encrypted").count(), 8, "{log}");
    assert_eq!(log.matches("could not verify; replacing it").count(), 1, "{log}");
}
