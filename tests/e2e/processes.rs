//! Two processes: what the watcher may do and has, what happens when it dies, what the service manager hears.

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
const ITS_OWN: &str = "0000000000003000";
const NONE: &str = "0000000000000000";

fn status_of(process: Pid) -> String {
    fs::read_to_string(format!("/proc/{process}/status")).unwrap()
}

fn field(status: &str, name: &str) -> Vec<String> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn the_watcher_is_nobody_and_has_no_capability_and_no_file() {
    let Some(lab) = Lab::new() else { return };
    for how in ["", "capture = \"udp\"\n"] {
        let site = Site::new(how, &open_ssh(2));
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
        // What is not dumpable belongs to root in /proc.
        assert_eq!(fs::metadata(format!("/proc/{watcher}/mem")).unwrap().uid(), 0);
        // The channel, a socket or nothing, the log, the signals' own; captures and what libpcap opens for them.
        for descriptor in fs::read_dir(format!("/proc/{watcher}/fd")).unwrap() {
            let target = fs::read_link(descriptor.unwrap().path()).unwrap();
            let target = target.to_str().unwrap();
            let harmless = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
            assert!(harmless.iter().any(|kind| target.starts_with(kind)), "{target}");
        }
        assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some(), "and it works");
    }
}

/// Gives the site to nobody, with a copy of the programs: the build may lie in a home folder.
fn give_to_nobody(site: &Site) {
    fs::copy(env!("CARGO_BIN_EXE_spa-knockd"), site.path("spa-knockd")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_spa-knock-watcher"), site.path("spa-knock-watcher")).unwrap();
    let owned = Command::new("chown").args(["-R", "nobody"]).arg(site.folder()).status().unwrap();
    assert!(owned.success());
}

/// `spa-knockd` as nobody, with the capabilities that its unit for such a user gives it.
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
fn a_daemon_that_is_not_root_keeps_its_capabilities_to_itself() {
    for (how, backend) in [("", "nftables"), ("capture = \"udp\"\n", "nftables"), ("", "iptables")] {
        let Some(lab) = Lab::new() else { return };
        lab.server.echo(22);
        let site = Site::new("", "");
        let status = site.path("status");
        let look =
            format!("[action.look]\nrun = [\"/bin/cp\", \"/proc/self/status\", \"{}\"]\n", status.display());
        let rest = open_ssh(2).replace("[\"open-ssh\"]", "[\"open-ssh\", \"look\"]") + &look;
        let rest = rest.replace("[firewall]", &format!("[firewall]\nbackend = \"{backend}\""));
        site.write_config(how, &rest);
        give_to_nobody(&site);
        let daemon = Daemon::start_command(&lab.server, as_nobody(&site, "run"));
        let check = lab.server.output(&mut as_nobody(&site, "check"));
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

        let keeper = status_of(daemon.id());
        assert_ne!(field(&keeper, "Uid")[0], "0");
        for (set, has) in [("CapPrm", ITS_OWN), ("CapEff", ITS_OWN), ("CapInh", NONE), ("CapAmb", NONE)] {
            assert_eq!(field(&keeper, set), [has], "{set} of the keeper");
        }
        let watcher = status_of(daemon.watcher().expect("a child of the daemon"));
        assert_eq!(field(&watcher, "Seccomp"), ["2"]);
        let (socket, laptop) = (lab.client.udp(CLIENT4), site.key("laptop"));
        assert!(ask(&socket, SERVER4, laptop.seal(&knock("look")).as_bytes()).is_some());
        assert!(within(SOON, || site.audit_of("done").len() == 1), "{:?}", site.audit());
        let command = fs::read_to_string(&status).unwrap();
        for (whose, status) in [("the watcher", watcher), ("a command", command)] {
            for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                assert_eq!(field(&status, set), [NONE], "{set} of {whose}");
            }
        }
        assert!(!lab.client.reaches(SERVER4, 22), "nft, or iptables, worked");
        assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
        assert!(lab.client.reaches(SERVER4, 22), "netlink, or ipset, works");
        lab.client.closing(SERVER4, 22);
        // The table is loaded again, and another watcher started, long after the start.
        lab.server.nft("flush ruleset");
        lab.server.run("ipset -q destroy");
        kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
        assert!(within(SOON, || daemon.log().contains("watching again")));
        assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
        lab.client.closing(SERVER4, 22);
    }
}

#[test]
fn the_keeper_has_no_more_rights_than_its_config_needs() {
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
    // All that it does later, it can do so.
    kill(daemon.watcher().unwrap(), Signal::SIGKILL).unwrap();
    assert!(within(SOON, || daemon.log().contains("watching again")));
    daemon.reload();
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());

    let command = "[action.lamp]\nrun = [\"/bin/true\"]\n";
    site.write_config("", &(open_ssh(2) + command));
    daemon.reload();
    assert!(daemon.log().contains("only a restart changes"), "{}", daemon.log());
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &site);
    assert_ne!(field(&status_of(daemon.id()), "CapEff"), ["00000000000031e0"], "commands may need anything");
}

#[test]
fn the_watcher_has_nothing_that_was_open_where_the_daemon_was_started() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let command = Daemon::command(&site);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$@\" 7</etc/passwd", "sh"]).arg(command.get_program()).args(command.get_args());
    let daemon = Daemon::start_command(&lab.server, shell);
    let open = |process: Pid| fs::read_link(format!("/proc/{process}/fd/7")).ok();
    let is_theirs = |process: Pid| open(process).is_some_and(|file| file == Path::new("/etc/passwd"));
    assert!(!is_theirs(daemon.id()));
    assert!(!is_theirs(daemon.watcher().expect("a child of the daemon")));
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
fn a_watcher_outlives_its_keeper_by_no_more_than_a_moment() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let mut daemon = Daemon::start(&lab.server, &site);
    let watcher = daemon.watcher().expect("a child of the daemon");
    daemon.kill9();
    assert!(
        within(SOON, || !fs::exists(format!("/proc/{watcher}/fd/0")).unwrap()),
        "the watcher is gone too"
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
fn a_table_that_somebody_flushed_is_back_with_the_next_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    lab.server.nft("flush ruleset");
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(!lab.neighbour.reaches(SERVER4, 22));
    assert!(lab.client.reaches(SERVER4, 22));
    lab.client.closing(SERVER4, 22);
}

#[test]
fn the_service_manager_hears_when_the_gate_is_closed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    let path = site.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = Daemon::command(&site);
    command.env("NOTIFY_SOCKET", &path);
    let mut daemon = Daemon::launch(&lab.server, command);
    let mut heard = [0; 64];
    let length = manager.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"READY=1");
    assert!(lab.server.nft("list table inet spa_knock").contains("tcp dport 22 jump gate"));
    assert!(daemon.terminate().success());
    let length = manager.recv(&mut heard).unwrap();
    assert_eq!(&heard[..length], b"STOPPING=1");
}

#[test]
fn the_service_manager_hears_signs_of_life_where_it_asked_for_them_and_none_of_a_daemon_that_hangs() {
    let Some(lab) = Lab::new() else { return };
    for (process, listens) in [(None, true), (Some("1"), false)] {
        let site = Site::new("", &open_ssh(2));
        let path = site.path("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut command = Daemon::command(&site);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "600000");
        command.envs(process.map(|process| ("WATCHDOG_PID", process)));
        let daemon = Daemon::start_command(&lab.server, command);
        let hears = || {
            let mut heard = [0; 64];
            manager.recv(&mut heard).ok().map(|length| String::from_utf8_lossy(&heard[..length]).into_owned())
        };
        assert_eq!(hears().as_deref(), Some("READY=1"));
        if !listens {
            assert_eq!(hears(), None, "they are asked of another process");
            continue;
        }
        for _ in 0..3 {
            let start = Instant::now();
            assert_eq!(hears().as_deref(), Some("WATCHDOG=1"));
            assert!(start.elapsed() < Duration::from_millis(600));
        }
        kill(daemon.id(), Signal::SIGSTOP).unwrap();
        while hears().is_some() {}
        kill(daemon.id(), Signal::SIGCONT).unwrap();
        assert_eq!(hears().as_deref(), Some("WATCHDOG=1"));
    }
}

fn add_wg9(lab: &Lab) {
    lab.server.ip("link add wg9 type veth peer name wg9p");
    lab.server.ip("link set wg9 up");
}

/// A daemon that watches lan0 and one more, which is gone.
fn with_a_lost_interface(lab: &Lab) -> (Site, Daemon) {
    let site = Site::new("interfaces = [\"lan0\", \"wg9\"]\n", &open_ssh(2));
    add_wg9(lab);
    let daemon = Daemon::start(&lab.server, &site);
    lab.server.ip("link del wg9");
    assert!(within(SOON, || daemon.log().contains("watching the rest")));
    (site, daemon)
}

#[test]
fn an_interface_that_goes_away_leaves_the_others_watched_and_is_watched_again_when_it_returns() {
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
    assert!(within(Duration::from_secs(10), || daemon.watcher() != before), "a watcher of both takes over");
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
        socket.send(b"anybody there?").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "neither an answer nor ICMP");
    }
    assert!(daemon.watcher().is_some_and(|watcher| watcher != first));
}

#[test]
fn a_second_daemon_does_not_undo_the_firsts_gate() {
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
fn a_watcher_that_is_not_believed_is_replaced_while_an_interface_is_missing_too() {
    let Some(lab) = Lab::new() else { return };
    let (site, daemon) = with_a_lost_interface(&lab);
    let (before, laptop) = (daemon.watcher(), site.key("laptop"));
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..8 {
        socket.send_to(&laptop.signed_nonsense(), (SERVER4, KNOCK_PORT)).unwrap();
    }
    assert!(within(SOON, || daemon.log().contains("watching again")));
    assert!(within(SOON, || daemon.watcher() != before), "and the old one ends");
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
}

#[test]
fn a_client_that_signs_nonsense_keeps_nobody_out() {
    let Some(lab) = Lab::new() else { return };
    let added = "[client.phone]\nkey = \"phone.key\"\nallow = [\"open-ssh\"]\n";
    let site = Site::new("", &(open_ssh(2) + added));
    let phone = site.add_key("phone");
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    for _ in 0..50 {
        socket.send_to(&phone.signed_nonsense(), (SERVER4, KNOCK_PORT)).unwrap();
    }
    for _ in 0..10 {
        assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_some());
    }
    let log = daemon.log();
    assert_eq!(log.matches("signed but not sealed").count(), 8, "{log}");
    assert_eq!(log.matches("taking another watcher").count(), 1, "{log}");
}
