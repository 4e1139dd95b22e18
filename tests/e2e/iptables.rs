//! The gate in iptables and ip6tables: with and without ipset, based on nftables and on the older kernel modules.

use std::fs::{self, File};
use std::net::IpAddr;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use spa_knock_core::knock::ReplyStatus;

use super::doors::{INSIDE, enable_forwarding, knock_at, site};
use crate::net::{
    BOTH, CLIENT4, Daemon, LATE, Lab, NatLab, SERVER4, Site, ask, assert_on_time, full, still_echoes, within,
};

const SSH: &str = "backend = \"iptables\"\nprotect = [\"tcp/22\"]";

/// The programs that a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Host {
    /// ipset, and the iptables based on nftables, as on most systems today.
    Usual,
    /// The same iptables without ipset.
    Setless,
    /// The older iptables that does not use nftables, without ipset.
    Legacy,
    /// The older iptables with ipset.
    LegacySets,
}

const ALL: [Host; 4] = [Host::Usual, Host::Setless, Host::Legacy, Host::LegacySets];

impl Host {
    /// The same command in a mount namespace that contains only this host's programs. The lock file of the tables is a
    /// file of the site.
    fn command(self, site: &Site, command: &Command) -> Command {
        let lock = site.path("xtables.lock");
        File::options().create(true).append(true).open(&lock).unwrap();
        let mut script = "/usr/bin/touch /run/xtables.lock\n".to_owned();
        script += &format!("mount --bind {} /run/xtables.lock\n", lock.display());
        if matches!(self, Self::Setless | Self::Legacy) {
            script += "mount --bind /dev/null \"$(readlink -f /usr/sbin/ipset)\"\n";
        }
        if matches!(self, Self::Legacy | Self::LegacySets) {
            script += "mount --bind /usr/sbin/xtables-legacy-multi /usr/sbin/xtables-nft-multi\n";
        }
        script += "exec \"$@\"\n";
        let mut mounted = Command::new("unshare");
        mounted
            .args(["--mount", "sh", "-ec", &script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        mounted
    }

    pub(crate) fn start(self, lab: &Lab, site: &Site) -> Daemon {
        Daemon::start_command(&lab.server, self.command(site, &Daemon::command(site)))
    }

    /// All rules of this host, without comments and counters.
    fn saved(self, lab: &Lab) -> String {
        let programs = match self {
            Self::Usual | Self::Setless => ["iptables-save", "ip6tables-save"],
            Self::Legacy | Self::LegacySets => ["iptables-legacy-save", "ip6tables-legacy-save"],
        };
        let text: String = programs.map(|program| lab.server.run(program)).concat();
        // Comments contain the time, and counters the number of packets.
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" [").next().unwrap().to_owned() + "\n").collect()
    }

    fn sets(lab: &Lab) -> String {
        lab.server.run("ipset list -n")
    }

    fn admin(self, lab: &Lab, site: &Site, args: &[&str]) -> Output {
        lab.server.output(&mut self.command(site, &site.admin(args)))
    }
}

fn ssh(seconds: u32) -> Site {
    site(SSH, &[("ssh", &format!("open = [\"tcp/22\"]\nfor = \"{seconds}s\"\nmax = \"1m\""))], "")
}

fn granted(lab: &Lab, (from, to): (IpAddr, IpAddr), site: &Site, action: &str) -> (Instant, Instant) {
    let sent = Instant::now();
    assert_eq!(knock_at(&lab.client, from, to, site, action, ""), ReplyStatus::Granted);
    (sent, Instant::now())
}

fn without_ours(saved: &str) -> Vec<&str> {
    let foreign = saved.lines().filter(|line| !line.contains("SPA_KNOCK"));
    foreign.collect()
}

#[test]
fn a_port_opens_for_one_address_and_closes_on_time_with_all_variants_of_iptables() {
    for host in ALL {
        let Some(lab) = Lab::new() else { return };
        let site = ssh(2);
        lab.server.echo(22);
        let mut older = lab.client.connect_within(SERVER4, 22, Duration::from_secs(3)).unwrap();
        let _daemon = host.start(&lab, &site);
        assert!(still_echoes(&mut older), "{host:?}: a connection older than the gate stays");
        for (from, to) in BOTH {
            assert!(!lab.client.reaches(to, 22), "{host:?}: closed without a knock");
            assert!(lab.server.reaches_itself(to, 22), "{host:?}: the host reaches itself");
            let times = granted(&lab, (from, to), &site, "ssh");
            let mut session = lab.client.connect(to, 22).expect("open after the knock");
            assert!(!lab.neighbor.reaches(to, 22), "{host:?}: closed for everyone else");
            let closed = lab.client.wait_until_closed(to, 22);
            println!("{host:?} {to}: closed {:?} after the knock", closed.began - times.0);
            assert_on_time(times, closed, 2);
            assert!(still_echoes(&mut session), "the connection stays");
        }
    }
}

#[test]
fn a_grant_of_a_killed_daemon_ends_on_time_after_a_restart() {
    for host in ALL {
        let Some(lab) = Lab::new() else { return };
        let site = ssh(3);
        lab.server.echo(22);
        let mut daemon = host.start(&lab, &site);
        let times = granted(&lab, BOTH[0], &site, "ssh");
        daemon.kill9();
        assert!(lab.client.reaches(SERVER4, 22), "{host:?}: still open");
        // The next daemon takes over the grant and ends it on time.
        let mut daemon = host.start(&lab, &site);
        assert!(lab.client.reaches(SERVER4, 22), "{host:?}: taken over");
        assert_on_time(times, lab.client.wait_until_closed(SERVER4, 22), 3);
        // A grant that has already ended at the start is removed before the daemon is ready.
        let times = granted(&lab, BOTH[0], &site, "ssh");
        daemon.kill9();
        thread::sleep(Duration::from_millis(3_300));
        let kernel_closes = matches!(host, Host::Usual | Host::LegacySets);
        assert_eq!(lab.client.reaches(SERVER4, 22), !kernel_closes, "{host:?}");
        let _daemon = host.start(&lab, &site);
        assert!(!lab.client.reaches(SERVER4, 22), "{host:?}: closed by the start");
        println!("{host:?}: closed {:?} after the knock", times.0.elapsed());
    }
}

#[test]
fn a_second_knock_renews_a_grant_and_a_revocation_closes_it_immediately() {
    for host in [Host::Usual, Host::Setless] {
        let Some(lab) = Lab::new() else { return };
        let site = ssh(3);
        lab.server.echo(22);
        let mut daemon = host.start(&lab, &site);
        for way in BOTH {
            granted(&lab, way, &site, "ssh");
            thread::sleep(Duration::from_secs(2));
            let times = granted(&lab, way, &site, "ssh");
            assert_on_time(times, lab.client.wait_until_closed(way.1, 22), 3);
            granted(&lab, way, &site, "ssh");
        }
        assert!(host.admin(&lab, &site, &["revoke", "--all"]).status.success());
        for (_, to) in BOTH {
            assert!(!lab.client.reaches(to, 22), "{host:?} {to}");
        }
        // The next daemon does not open it again.
        daemon.kill9();
        let _daemon = host.start(&lab, &site);
        assert!(!lab.client.reaches(SERVER4, 22), "{host:?}");
    }
}

#[test]
fn without_ipset_no_grant_stays_open_while_the_daemon_is_stopped() {
    let Some(lab) = Lab::new() else { return };
    let site = ssh(8);
    lab.server.echo(22);
    let mut daemon = Host::Setless.start(&lab, &site);
    let times = granted(&lab, BOTH[0], &site, "ssh");
    assert!(lab.client.reaches(SERVER4, 22));
    assert!(daemon.terminate().success());
    assert!(!lab.client.reaches(SERVER4, 22), "no process would close it");
    assert!(daemon.log().contains("stopped: grants are suspended until the next start"), "{}", daemon.log());
    let _daemon = Host::Setless.start(&lab, &site);
    assert!(lab.client.reaches(SERVER4, 22), "open for the rest of its time");
    assert_on_time(times, lab.client.wait_until_closed(SERVER4, 22), 8);
}

#[test]
fn without_ipset_no_grant_stays_open_after_the_gate_is_restored_or_a_start_fails() {
    let Some(lab) = Lab::new() else { return };
    let site = ssh(60);
    lab.server.echo(22);
    let mut daemon = Host::Setless.start(&lab, &site);
    granted(&lab, BOTH[0], &site, "ssh");
    daemon.kill9();
    assert!(lab.client.reaches(SERVER4, 22), "no process closes it");
    assert!(Host::Setless.admin(&lab, &site, &["restore-gate"]).status.success());
    assert!(!lab.client.reaches(SERVER4, 22), "closed by restoring the gate");

    let mut daemon = Host::Setless.start(&lab, &site);
    assert!(lab.client.reaches(SERVER4, 22), "reopened by a daemon for the rest of its time");
    daemon.kill9();
    fs::write(site.path("state/replay.journal"), "damaged").unwrap();
    let refused = lab.server.output(&mut Host::Setless.command(&site, &Daemon::command(&site)));
    assert!(!refused.status.success());
    assert!(!lab.client.reaches(SERVER4, 22), "closed after a failed start");
}

/// Without ipset, a daemon that is killed while it opens or closes must leave everything that the next one needs.
#[test]
fn a_daemon_killed_while_it_runs_iptables_leaves_nothing_open_after_the_next_start() {
    let Some(lab) = Lab::new() else { return };
    let site = ssh(1);
    lab.server.echo(22);
    for program in ["iptables", "ip6tables"] {
        lab.server.run(&format!("{program} -A INPUT -p tcp --dport 9 -j DROP"));
    }
    let foreign = Host::Setless.saved(&lab);
    let laptop = site.key("laptop");
    let mut killed = 0;
    // These calls start processes and threads: about twelve for a start, and as many for a grant and its end.
    let points: Vec<u32> = (1..=14).step_by(if full() { 1 } else { 2 }).collect();
    for nth in &points {
        let mut command = Command::new("strace");
        // All threads of the daemon, but not the programs that they run. strace counts the calls of each thread
        // separately.
        command.args(["-qq", "-f", "-b", "execve", "-o", "/dev/null"]);
        command.args(["-e", "trace=clone,clone3,vfork", "-e"]);
        command.arg(format!("inject=clone,clone3,vfork:signal=SIGKILL:when={nth}"));
        command.arg(env!("CARGO_BIN_EXE_spa-knockd")).arg("run").arg("-c").arg(site.path("spa-knockd.toml"));
        let mut dying = Daemon::launch(&lab.server, Host::Setless.command(&site, &command));
        assert!(within(Duration::from_secs(5), || dying.has_logged("ready") || dying.has_exited()), "{nth}");
        ask(&lab.client.udp(CLIENT4), SERVER4, &laptop.good());
        thread::sleep(Duration::from_millis(1_300));
        if dying.has_exited() {
            killed += 1;
        } else if let Some(daemon) = dying.watcher() {
            // The daemon is a child of strace.
            kill(daemon, Signal::SIGKILL).unwrap();
            assert!(within(Duration::from_secs(2), || dying.has_exited()), "{nth}");
        }
        let mut next = Host::Setless.start(&lab, &site);
        assert!(!lab.client.reaches(SERVER4, 22), "{nth}: the grant has ended");
        granted(&lab, BOTH[0], &site, "ssh");
        assert!(lab.client.reaches(SERVER4, 22), "{nth}: the next knock opens");
        next.kill9();
    }
    println!("killed at {killed} of {} points", points.len());
    assert!(killed * 2 >= points.len(), "killed at {killed} of {} points", points.len());
    assert!(Host::Setless.admin(&lab, &site, &["gate", "off"]).status.success());
    assert_eq!(Host::Setless.saved(&lab), foreign);
}

#[test]
fn rules_of_others_stay_byte_for_byte_the_same_and_gate_off_removes_all_our_rules() {
    for host in ALL {
        let Some(lab) = Lab::new() else { return };
        let site = ssh(1);
        lab.server.echo(22);
        let programs = match host {
            Host::Usual | Host::Setless => ["iptables", "ip6tables"],
            Host::Legacy | Host::LegacySets => ["iptables-legacy", "ip6tables-legacy"],
        };
        for program in programs {
            lab.server.run(&format!("{program} -N SPA_KNOCKER"));
            for port in 1..=50 {
                let chain = ["INPUT", "FORWARD", "SPA_KNOCKER"][port % 3];
                lab.server.run(&format!(
                    "{program} -A {chain} -p udp --dport {port} -m comment --comment x{port} -j DROP"
                ));
            }
            lab.server.run(&format!("{program} -t mangle -A PREROUTING -p udp --dport 9 -j DROP"));
        }
        lab.server.run("ipset create others hash:ip");
        let foreign = host.saved(&lab);
        // The chain's name has the same prefix as ours.
        let without_prefix = |text: &str| text.replace("SPA_KNOCKER", "THEIRS");
        let daemon = host.start(&lab, &site);
        for round in 0..18 {
            granted(&lab, BOTH[round % 2], &site, "ssh");
        }
        let with_ours = without_prefix(&host.saved(&lab));
        assert!(with_ours.contains("-A INPUT -m comment --comment spa-knock -j SPA_KNOCK"), "{host:?}");
        assert_eq!(without_ours(&with_ours), without_ours(&without_prefix(&foreign)), "{host:?}");
        daemon.reload();
        drop(daemon);
        let _daemon = host.start(&lab, &site);
        assert_eq!(
            host.saved(&lab).matches("-j SPA_KNOCK\n").count(),
            2,
            "{host:?}: one jump to our chain for each IP version"
        );
        let output = host.admin(&lab, &site, &["gate", "off"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(host.saved(&lab), foreign, "{host:?}");
        assert_eq!(Host::sets(&lab), "others\n", "{host:?}");
        assert!(lab.client.reaches(SERVER4, 22));
        assert!(host.admin(&lab, &site, &["gate", "on"]).status.success());
        assert!(!lab.client.reaches(SERVER4, 22));
    }
}

#[test]
fn flushed_rules_are_restored_by_the_next_knock_and_later_without_a_knock() {
    for host in [Host::Usual, Host::Setless] {
        let Some(lab) = Lab::new() else { return };
        let site = ssh(50);
        lab.server.echo(22);
        let daemon = host.start(&lab, &site);
        granted(&lab, BOTH[0], &site, "ssh");
        lab.server.run("iptables -F");
        assert!(lab.neighbor.reaches(SERVER4, 22), "{host:?}: flushed");
        granted(&lab, BOTH[0], &site, "ssh");
        assert!(!lab.neighbor.reaches(SERVER4, 22), "{host:?}: closed by a knock");
        lab.server.run("iptables -F");
        let closed = || !lab.neighbor.reaches(SERVER4, 22);
        assert!(within(Duration::from_secs(12), closed), "{host:?}: closed without a knock");
        assert!(lab.client.reaches(SERVER4, 22), "{host:?}: the active grant");
        assert!(daemon.log().contains("another program changed our table"), "{}", daemon.log());
    }
}

#[test]
fn a_knock_waits_for_a_lock_of_another_program_and_then_fails_with_its_name() {
    let Some(lab) = Lab::new() else { return };
    let site = ssh(20);
    lab.server.echo(22);
    let daemon = Host::LegacySets.start(&lab, &site);
    let setless = ssh(20);
    let hold = |site: &Site, time: Duration| {
        let lock = File::options().write(true).open(site.path("xtables.lock")).unwrap();
        lock.lock().unwrap();
        thread::spawn(move || {
            thread::sleep(time);
            drop(lock);
        })
    };
    // A grant in a set needs no table.
    let held = hold(&site, Duration::from_secs(2));
    granted(&lab, BOTH[0], &site, "ssh");
    assert!(lab.client.reaches(SERVER4, 22));
    held.join().unwrap();
    drop(daemon);

    let daemon = Host::Legacy.start(&lab, &setless);
    let held = hold(&setless, Duration::from_secs(1));
    let mut command = setless.knock(SERVER4, &["--timeout", "5s", "ssh"]);
    let _ = lab.client.output(&mut command);
    assert!(within(Duration::from_secs(2), || lab.client.reaches(SERVER4, 22)), "{}", daemon.log());
    held.join().unwrap();
    assert!(Host::Legacy.admin(&lab, &setless, &["revoke", "--all"]).status.success());

    let held = hold(&setless, Duration::from_secs(11));
    let _ = lab.client.output(&mut setless.knock(SERVER4, &["ssh"]));
    assert!(
        within(Duration::from_secs(13), || {
            setless
                .audit_of("failed")
                .iter()
                .any(|record| record["detail"].to_string().contains("xtables.lock"))
        }),
        "{}",
        daemon.log()
    );
    held.join().unwrap();
    assert!(!lab.client.reaches(SERVER4, 22), "a failed grant opens nothing");
    assert_eq!(knock_at(&lab.client, CLIENT4, SERVER4, &setless, "ssh", ""), ReplyStatus::Granted);
}

#[test]
fn every_kind_of_effect_opens_its_port() {
    for host in [Host::Usual, Host::Setless] {
        let Some(lab) = Lab::new() else { return };
        enable_forwarding(&lab);
        let [to_db, to_web] = INSIDE;
        let actions = [to_db, to_web, ("range", "open = [\"tcp/8000-8049\", \"udp/53\"]\nfor = \"2s\"")];
        let firewall =
            "backend = \"iptables\"\nprotect = [\"tcp/8000-8099\", \"udp/53\"]\npublished = [\"tcp/9000\"]";
        let site = site(firewall, &actions, "");
        lab.neighbor.echo(5432);
        for port in [8000, 8049, 8050, 8080, 9000] {
            lab.server.echo(port);
        }
        let _daemon = host.start(&lab, &site);
        for (from, to) in BOTH {
            assert!(!lab.client.reaches(to, 9000), "{host:?}: published");
            for (action, port) in [("to-db", 15_432), ("to-web", 80), ("range", 8049)] {
                assert!(!lab.client.reaches(to, port), "{host:?} {action} {to}: closed before");
                granted(&lab, (from, to), &site, action);
                let mut inside =
                    lab.client.connect(to, port).unwrap_or_else(|| panic!("{host:?} {action} {to}"));
                assert!(still_echoes(&mut inside));
                assert!(
                    !lab.client.reaches(to, 8050) && !lab.neighbor.reaches(to, port),
                    "{host:?} {action}"
                );
                lab.client.wait_until_closed(to, port);
                assert!(still_echoes(&mut inside), "the connection stays");
            }
        }
        assert!(within(LATE, || !host.saved(&lab).contains("DNAT")), "{host:?}: no forward is left");
    }
}

#[test]
fn overlapping_grants_each_keep_their_own_time() {
    for host in [Host::Usual, Host::Setless] {
        let Some(lab) = Lab::new() else { return };
        let actions = [
            ("wide", "open = [\"tcp/8000-8020\"]\nfor = \"20s\""),
            ("narrow", "open = [\"tcp/8010-8030\"]\nfor = \"1s\""),
            ("close-wide", "close = \"wide\""),
            ("long", "open = [\"tcp/8015\"]\nfor = \"20s\""),
        ];
        let site = site("backend = \"iptables\"\nprotect = [\"tcp/8000-8099\"]", &actions, "");
        for port in [8005, 8015, 8025] {
            lab.server.echo(port);
        }
        let _daemon = host.start(&lab, &site);
        granted(&lab, BOTH[0], &site, "wide");
        granted(&lab, BOTH[0], &site, "narrow");
        assert!(lab.client.reaches(SERVER4, 8025));
        lab.client.wait_until_closed(SERVER4, 8025);
        assert!(lab.client.reaches(SERVER4, 8015), "{host:?}: the shorter grant does not end the longer one");
        granted(&lab, BOTH[0], &site, "long");
        assert_eq!(knock_at(&lab.client, CLIENT4, SERVER4, &site, "close-wide", ""), ReplyStatus::Done);
        assert!(!lab.client.reaches(SERVER4, 8005), "{host:?}");
        assert!(lab.client.reaches(SERVER4, 8015), "{host:?}: held by another action");
    }
}

#[test]
fn one_connection_uses_up_a_grant_with_once() {
    let Some(lab) = NatLab::new() else { return };
    let actions = [
        ("once", "open = [\"tcp/22\"]\nonce = true\nfor = \"20s\""),
        ("on", "forward = { from = \"tcp/80\", to = \":22\" }\nfor = \"1s\""),
    ];
    let site = site(SSH, &actions, "");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let from = "10.77.2.2".parse().unwrap();
    for round in 0..4 {
        assert_eq!(knock_at(&lab.client, from, SERVER4, &site, "once", ""), ReplyStatus::Granted, "{round}");
        let mut first = lab.client.connect(SERVER4, 22).unwrap_or_else(|| panic!("the first, {round}"));
        let refused = Duration::from_millis(100);
        assert!(lab.router.connect_within(SERVER4, 22, refused).is_none(), "the second, {round}");
        assert!(still_echoes(&mut first), "the first connection stays, {round}");
    }
    // The end of another grant and a restart do not allow a second connection either.
    assert_eq!(knock_at(&lab.client, from, SERVER4, &site, "on", ""), ReplyStatus::Granted);
    thread::sleep(Duration::from_millis(2_500));
    assert!(lab.client.connect_within(SERVER4, 22, Duration::from_millis(300)).is_none());
    daemon.kill9();
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(lab.client.connect_within(SERVER4, 22, Duration::from_millis(300)).is_none());
}

#[test]
fn the_kernel_ends_a_trial_and_opens_a_failsafe_and_without_ipset_both_are_refused() {
    let Some(lab) = Lab::new() else { return };
    let site = ssh(20);
    lab.server.echo(22);
    let mut daemon = Host::Usual.start(&lab, &site);
    assert!(Host::Usual.admin(&lab, &site, &["gate", "on", "--confirm", "5s"]).status.success());
    assert!(!lab.client.reaches(SERVER4, 22));
    daemon.kill9();
    assert!(!lab.client.reaches(SERVER4, 22));
    assert!(within(Duration::from_secs(7), || lab.client.reaches(SERVER4, 22)));
    assert!(Host::Usual.admin(&lab, &site, &["gate", "off"]).status.success());

    let stderr = |output: Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = Host::Setless.admin(&lab, &site, &["gate", "on", "--confirm", "5s"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(refused).contains("a gate on trial needs ipset"));
    assert!(lab.client.reaches(SERVER4, 22), "no port has been closed");
    let closed = stderr(Host::Setless.admin(&lab, &site, &["gate", "on"]));
    assert!(closed.contains("gate: on") && !closed.contains("let-in"), "{closed}");
    let args = ["let-in", "10.77.0.2", "--port", "tcp/22", "--port", "tcp/80-90"];
    let refused = Host::Setless.admin(&lab, &site, &args);
    assert_eq!(refused.status.code(), Some(1));
    // The commands in the hint work as described.
    let text = stderr(refused);
    let (_, rules) = text.trim_end().split_once("closes them: ").expect("a hint");
    for (port, rule) in [22, 80].into_iter().zip(rules.split("; ")) {
        assert!(!lab.client.reaches(SERVER4, port), "{rule}");
        lab.server.run(rule);
        assert_eq!(lab.client.reaches(SERVER4, port), port == 22, "{rule}");
    }
    assert!(Host::Setless.admin(&lab, &site, &["gate", "off"]).status.success());

    let check = |lines: &str, action: &str| {
        let site = self::site(&format!("{SSH}\n{lines}"), &[("ssh", action)], "");
        let output = Host::Setless.admin(&lab, &site, &["check"]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let open = "open = [\"tcp/22\"]\nfor = \"20s\"";
    let text = check("failsafe = { after = \"30s\", allow = [\"10.77.0.0/24\"] }", open);
    assert!(text.contains("firewall.failsafe: needs the program ipset"), "{text}");
    let text = check("", &format!("{open}\nonce = true"));
    assert!(text.contains("action.ssh.once: needs the program ipset"), "{text}");

    let failsafe =
        format!("{SSH}\nfailsafe = {{ after = \"30s\", allow = [\"10.77.0.0/24\", \"fd77::/64\"] }}");
    let site = self::site(&failsafe, &[("ssh", open)], "");
    let mut daemon = Host::Usual.start(&lab, &site);
    daemon.kill9();
    thread::sleep(Duration::from_secs(20));
    for (_, to) in BOTH {
        assert!(!lab.client.reaches(to, 22), "not yet");
    }
    assert!(within(Duration::from_secs(12), || lab.client.reaches(SERVER4, 22)));
    assert!(!lab.neighbor.reaches(SERVER4, 22), "closed to others");
}
