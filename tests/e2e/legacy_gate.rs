//! Doors with `Open` in `spa-knockd knockd`: the daemon has a gate with such a door, and no gate otherwise.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use std::{fs, thread};

use etherparse::PacketBuilder;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::net::{
    BOTH, CLIENT4, CLIENT6, Daemon, Lab, NEIGHBOR4, SERVER4, SERVER6, Site, Wire, assert_on_time, limited,
    open_ssh, still_echoes, within,
};

const SOON: Duration = Duration::from_secs(5);

/// A `knockd.conf`, and the log and state directory of its daemon.
struct Doors(TempDir);

impl Doors {
    fn new(doors: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let written = Self(folder);
        written.write(doors);
        written
    }

    fn write(&self, doors: &str) {
        let log = self.path("log").display().to_string();
        let text = format!("[options]\nlogfile = {log}\ninterface = lan0\ninterface = lan1\n{doors}");
        fs::write(self.path("knockd.conf"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(Daemon::PROGRAM);
        command.arg("knockd").arg("-c").arg(self.path("knockd.conf"));
        command.arg("--state-dir").arg(self.path("state"));
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts the daemon and waits until it listens.
    fn start(&self, lab: &Lab) -> Daemon {
        let starts = || self.log().matches("starting up").count();
        let before = starts();
        let daemon = Daemon::launch(&lab.server, self.command());
        assert!(within(SOON, || starts() > before), "{}{}", daemon.log(), self.log());
        daemon
    }

    /// The output of a daemon that exits by itself.
    fn output_of(&self, lab: &Lab) -> Output {
        let command = self.command();
        let mut bounded = limited(Daemon::PROGRAM);
        lab.server.output(bounded.args(command.get_args()))
    }
}

fn door(name: &str, sequence: &str, ports: &str, seconds: u64) -> String {
    format!("[{name}]\nsequence = {sequence}\ntcpflags = syn\nopen = {ports}\nfor = {seconds}s\n")
}

fn knock(lab: &Lab, server: IpAddr, ports: &[&str]) {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args(["legacy", &server.to_string()]).args(ports);
    assert!(lab.client.output(&mut command).status.success());
}

fn ruleset(lab: &Lab) -> String {
    lab.server.nft("list ruleset")
}

fn stderr_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_port_opens_only_for_the_knocking_address_and_the_kernel_closes_it_even_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let doors = Doors::new(&door("open SSH", "7000,8000:udp,9000", "tcp/22", 3));
    let mut daemon = doors.start(&lab);
    for (client, server) in BOTH {
        assert!(!lab.client.reaches(server, 22), "closed without a knock");
        let sent = Instant::now();
        knock(&lab, server, &["7000", "8000:udp", "9000"]);
        assert!(within(SOON, || lab.client.reaches(server, 22)), "open after the knock");
        let granted = Instant::now();
        assert!(!lab.neighbor.reaches(server, 22), "closed for everyone else");
        assert!(daemon.log().contains(&format!("open SSH: tcp/22 open for {client}, for 3s")));
        assert!(doors.log().ends_with(&format!("{client}: open SSH: OPEN SESAME\n")), "{}", doors.log());
        if client == CLIENT6 {
            daemon.kill9();
        }
        assert_on_time((sent, granted), lab.client.wait_until_closed(server, 22), 3);
    }
}

#[test]
fn another_knock_renews_the_grant_for_the_full_time_without_a_gap() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let doors = Doors::new(&door("a", "7000", "tcp/22", 3));
    let daemon = doors.start(&lab);
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)));
    thread::sleep(Duration::from_millis(1_500));
    let sent = Instant::now();
    knock(&lab, SERVER4, &["7000"]);
    while daemon.log().matches("open for").count() < 2 {
        assert!(lab.client.reaches(SERVER4, 22), "open without interruption");
        assert!(sent.elapsed() < SOON, "{}", daemon.log());
    }
    assert_on_time((sent, Instant::now()), lab.client.wait_until_closed(SERVER4, 22), 3);
}

#[test]
fn the_next_daemon_continues_with_table_and_grants_after_a_kill_and_after_a_stop() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let doors = Doors::new(&door("a", "7000", "tcp/22", 6));
    let mut daemon = doors.start(&lab);
    let sent = Instant::now();
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)));
    let granted = Instant::now();
    let handles = || lab.server.nft("-a list tables");
    let before = handles();
    daemon.kill9();
    let mut daemon = doors.start(&lab);
    assert!(lab.client.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 22), "after a kill");
    assert_eq!(daemon.terminate().code(), Some(15));
    assert!(daemon.log().contains("grants stay until they expire, tcp/22 closed"), "{}", daemon.log());
    assert!(lab.client.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 22), "without a daemon");
    let _daemon = doors.start(&lab);
    assert!(lab.client.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 22), "after a stop");
    assert_eq!(handles(), before, "it is the same table");
    assert_on_time((sent, granted), lab.client.wait_until_closed(SERVER4, 22), 6);
}

#[test]
fn a_flushed_ruleset_is_restored_with_its_active_grants() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let doors = Doors::new(&door("a", "7000", "tcp/22", 30));
    let mut daemon = doors.start(&lab);
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)));
    for restarted in [false, true] {
        if restarted {
            daemon.kill9();
            daemon = doors.start(&lab);
        }
        lab.server.nft("flush ruleset");
        assert!(within(Duration::from_secs(1), || ruleset(&lab).contains("drop")), "{}", daemon.log());
        assert!(lab.client.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 22));
        assert!(daemon.log().contains("another program changed our table"), "{}", daemon.log());
    }
}

#[test]
fn a_reload_applies_new_ports_or_keeps_all_old_ones_and_without_open_it_removes_the_table() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    lab.server.echo(80);
    let before = ruleset(&lab);
    let doors = Doors::new("[a]\nsequence = 7000\ncommand = true\n");
    let daemon = doors.start(&lab);
    let both_reach = |port| lab.client.reaches(SERVER4, port) && lab.neighbor.reaches(SERVER4, port);
    assert!(both_reach(22) && both_reach(80));
    // The first door with Open: the gate is turned on.
    doors.write(&door("a", "7000", "tcp/22", 30));
    daemon.reload();
    assert!(!lab.client.reaches(SERVER4, 22) && both_reach(80), "{}", daemon.log());
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)));
    // One line is invalid: nothing changes.
    doors.write(&format!("{}[c]\nsequence = 7002:x\n", door("b", "7001", "tcp/80", 30)));
    daemon.reload();
    assert!(lab.client.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 22) && both_reach(80));
    // An additional port: open ports stay open.
    doors.write(&format!("{}{}", door("a", "7000", "tcp/22", 30), door("b", "7001", "tcp/80", 30)));
    daemon.reload();
    assert!(lab.client.reaches(SERVER4, 22) && !lab.client.reaches(SERVER4, 80), "{}", daemon.log());
    knock(&lab, SERVER4, &["7001"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 80)));
    assert!(!lab.neighbor.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 80));
    // Another port instead.
    doors.write(&door("b", "7001", "tcp/80", 30));
    daemon.reload();
    assert!(both_reach(22) && !lab.neighbor.reaches(SERVER4, 80), "{}", daemon.log());
    // No port.
    doors.write("[a]\nsequence = 7000\ncommand = true\n");
    daemon.reload();
    assert_eq!(ruleset(&lab), before, "{}", daemon.log());
    assert!(both_reach(22) && both_reach(80));
    // Another daemon can use the gate until this one needs it again.
    let site = Site::new("", &open_ssh(30));
    let other = Daemon::start(&lab.server, &site);
    doors.write(&door("b", "7001", "tcp/80", 30));
    daemon.reload();
    assert!(daemon.log().contains("section b: Open: gate of this network namespace"), "{}", daemon.log());
    assert!(both_reach(80) && !lab.client.reaches(SERVER4, 22), "the other daemon's gate is unchanged");
    drop(other);
    daemon.reload();
    assert!(!lab.client.reaches(SERVER4, 80), "{}", daemon.log());
}

#[test]
fn only_one_of_two_daemons_has_the_gate_and_the_other_reports_it() {
    let Some(lab) = Lab::new() else { return };
    let doors = Doors::new(&door("open SSH", "7000", "tcp/22", 30));
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let closed = ruleset(&lab);
    let output = doors.output_of(&lab);
    assert_eq!(output.status.code(), Some(1));
    for text in ["config: section open SSH: Open: ", "locked by another spa-knockd\n", "in [legacy] of"] {
        assert!(stderr_of(&output).contains(text), "{}", stderr_of(&output));
    }
    assert_eq!(ruleset(&lab), closed);
    // A daemon without Open needs no gate.
    let without = Doors::new("[a]\nsequence = 7000\ncommand = true\n");
    drop(without.start(&lab));
    drop(daemon);
    let _doors = doors.start(&lab);
    let mut run = limited(Daemon::PROGRAM);
    let output = lab.server.output(run.args(Daemon::arguments(&site)));
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr_of(&output).contains("locked by another spa-knockd"), "{}", stderr_of(&output));
}

#[test]
fn without_open_neither_the_firewall_nor_an_earlier_daemons_table_is_changed() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let before = ruleset(&lab);
    let doors = Doors::new("[a]\nsequence = 7000\ncommand = true\n");
    let mut daemon = doors.start(&lab);
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || doors.log().contains("OPEN SESAME")));
    assert_eq!(ruleset(&lab), before);
    assert!(!daemon.log().contains("gate"), "{}", daemon.log());
    daemon.terminate();
    doors.write(&door("a", "7000", "tcp/22", 30));
    doors.start(&lab).terminate();
    doors.write("[a]\nsequence = 7000\ncommand = true\n");
    let mut daemon = doors.start(&lab);
    assert!(daemon.log().contains("to open them, run `nft delete table inet spa_knock`"), "{}", daemon.log());
    assert!(!lab.client.reaches(SERVER4, 22), "another program may have closed it");
    lab.server.nft("delete table inet spa_knock");
    assert!(lab.client.reaches(SERVER4, 22));
    daemon.terminate();
    let daemon = doors.start(&lab);
    assert!(!daemon.log().contains("Open"), "logged only once: {}", daemon.log());
}

#[test]
fn the_first_start_breaks_no_connection_and_a_failed_start_closes_nothing() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let mut sessions: Vec<_> =
        [SERVER4, SERVER6].map(|server| lab.client.connect(server, 22).unwrap()).into_iter().collect();
    let doors = Doors::new(&door("a", "7000", "tcp/22", 30));
    let good = fs::read_to_string(doors.path("knockd.conf")).unwrap();
    fs::write(doors.path("knockd.conf"), good.replace("lan1", "nothing0")).unwrap();
    assert_eq!(doors.output_of(&lab).status.code(), Some(1));
    assert!(lab.neighbor.reaches(SERVER4, 22), "a daemon that could not open ports must not close any");
    fs::write(doors.path("knockd.conf"), good).unwrap();
    let mut daemon = doors.start(&lab);
    assert!(!lab.client.reaches(SERVER4, 22));
    assert!(sessions.iter_mut().all(still_echoes));
    // From the second start on, the daemon closes the ports first.
    daemon.terminate();
    lab.server.nft("delete table inet spa_knock");
    lab.server.ip("link set lan1 name lan2");
    assert_eq!(doors.output_of(&lab).status.code(), Some(1));
    assert!(!lab.client.reaches(SERVER4, 22));
    assert!(sessions.iter_mut().all(still_echoes));
}

#[test]
fn a_door_opens_all_its_ports_only_for_its_sources() {
    let Some(lab) = Lab::new() else { return };
    [22, 8001, 8009].into_iter().for_each(|port| lab.server.echo(port));
    let ports = "tcp/22,tcp/8000-8010";
    let doors = Doors::new(&format!("{}source = {NEIGHBOR4}/32,{CLIENT6}\n", door("a", "7000", ports, 30)));
    let daemon = doors.start(&lab);
    knock(&lab, SERVER4, &["7000"]);
    knock(&lab, SERVER6, &["7000"]);
    assert!(within(SOON, || lab.client.reaches(SERVER6, 8009)), "{}", daemon.log());
    assert!(lab.client.reaches(SERVER6, 22) && lab.client.reaches(SERVER6, 8001));
    assert!(!lab.client.reaches(SERVER4, 22) && !daemon.log().contains(&CLIENT4.to_string()));
}

#[test]
fn grants_for_spoofed_sources_are_bounded_and_the_rest_are_logged() {
    const LIVE_MAX: u32 = 1_024;
    let Some(lab) = Lab::new() else { return };
    let doors = Doors::new("[a]\nsequence = 7000:udp\nopen = tcp/22\nfor = 1m\n");
    let daemon = doors.start(&lab);
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    for number in 1..=LIVE_MAX + 10 {
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(12, 0, 0, 0)) + number);
        let builder = PacketBuilder::ethernet2(wire.mac, wire.peer).ipv4(from.octets(), [10, 77, 0, 1], 64);
        let mut frame = Vec::new();
        builder.udp(40_000, 7000).write(&mut frame, &[]).unwrap();
        wire.send(&frame);
    }
    let logged = || daemon.log().matches("too many grants by knock sequences are active").count();
    assert!(within(Duration::from_secs(20), || logged() == 10), "{} logged", logged());
    let open = lab.server.nft("list set inet spa_knock grants4").matches("expires").count();
    assert_eq!(open, usize::try_from(LIVE_MAX).unwrap());
}

#[test]
fn a_daemon_in_the_background_has_a_gate_or_prints_why_not() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let doors = Doors::new(&door("a", "7000", "tcp/22", 30));
    let pid_file = doors.path("pid");
    let start = || {
        let mut command = limited(Daemon::PROGRAM);
        command.args(doors.command().get_args()).args(["-d", "-p", pid_file.to_str().unwrap()]);
        let output = lab.server.output(&mut command);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let (code, stderr) = start();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("locked by another spa-knockd"), "{stderr}");
    drop(daemon);
    assert_eq!(start().0, Some(0));
    let id = fs::read_to_string(&pid_file).unwrap().trim_end().parse().unwrap();
    knock(&lab, SERVER4, &["7000"]);
    assert!(within(SOON, || lab.client.reaches(SERVER4, 22)));
    assert!(!lab.neighbor.reaches(SERVER4, 22));
    kill(Pid::from_raw(id), Signal::SIGTERM).unwrap();
    assert!(within(SOON, || !pid_file.exists()));
    assert!(lab.client.reaches(SERVER4, 22) && !lab.neighbor.reaches(SERVER4, 22), "the gate remains");
}

#[test]
fn a_missing_nft_is_reported_with_a_hint() {
    let Some(lab) = Lab::new() else { return };
    let doors = Doors::new(&door("a", "7000", "tcp/22", 30));
    // For this process only, the directory with nft is empty, and PATH has no other.
    let hide = format!(
        "mount -t tmpfs none \"$(dirname \"$(command -v nft)\")\" && PATH={} exec \"$@\"",
        doors.0.path().display()
    );
    let mut command = limited("unshare");
    command.args(["--mount", "sh", "-c", &hide, "-", Daemon::PROGRAM]);
    let output = lab.server.output(command.args(doors.command().get_args()));
    assert_eq!(output.status.code(), Some(1));
    let expected = "config: section a: Open: firewall: nft not found\nhint: apt install nftables";
    assert!(stderr_of(&output).contains(expected), "{}", stderr_of(&output));
}

#[test]
fn the_daemon_needs_cap_net_admin_only_if_a_door_has_open() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let doors = Doors::new(&door("a", "7000", "tcp/22", 30));
    let without_net_admin = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", Daemon::PROGRAM]);
        command.args(doors.command().get_args());
        command
    };
    let output = lab.server.output(&mut without_net_admin());
    assert_eq!(output.status.code(), Some(1));
    let expected =
        "config: section a: Open: firewall: not allowed to change it (CAP_NET_ADMIN is missing)\nhint: ";
    assert!(stderr_of(&output).contains(expected), "{}", stderr_of(&output));
    assert!(lab.client.reaches(SERVER4, 22));
    doors.write("[a]\nsequence = 7000\ncommand = true\n");
    let _daemon = Daemon::launch(&lab.server, without_net_admin());
    assert!(within(SOON, || doors.log().contains("starting up")));
}
