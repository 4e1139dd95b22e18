//! The gate as a whole: on trial, off, flushed by another program, and enforced by the kernel when no daemon runs.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use spa_knock_core::knock::ReplyStatus;

use crate::grants::{elements, holder, start_with};
use crate::net::{
    CLIENT4, Daemon, Lab, Mounts, SERVER4, Site, ask, ask_patiently, full, knock, open_ssh, still_echoes,
    within,
};

/// Time limit until the daemon has repaired the gate.
const SOON: Duration = Duration::from_secs(3);

fn admin(lab: &Lab, site: &Site, args: &[&str]) -> Output {
    let output = lab.server.output(&mut site.admin(args));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn ruleset(lab: &Lab) -> String {
    lab.server.nft("list ruleset")
}

#[test]
fn an_unconfirmed_trial_is_ended_by_the_kernel_even_if_every_process_is_dead() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let mut session = lab.client.connect(SERVER4, 22).unwrap();
    let start = Instant::now();
    // The trial begins without a daemon; later the daemon is killed.
    admin(&lab, &site, &["gate", "on", "--confirm", "5s"]);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(still_echoes(&mut session), "the connection that existed before stays open");
    assert!(!lab.client.reaches(SERVER4, 22));
    daemon.kill9();
    assert!(!lab.client.reaches(SERVER4, 22));
    assert!(within(Duration::from_secs(7), || lab.client.reaches(SERVER4, 22)));
    let open = start.elapsed();
    assert!((Duration::from_millis(4_500)..Duration::from_millis(6_500)).contains(&open), "{open:?}");
    assert!(still_echoes(&mut session));
}

#[test]
fn a_running_daemon_removes_all_its_rules_when_a_trial_ends() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    lab.server.nft("add table inet other");
    lab.server.nft("add chain inet other in { type filter hook input priority 0 ; policy accept ; }");
    lab.server.nft("add rule inet other in tcp dport 9 counter drop");
    let before = ruleset(&lab);
    admin(&lab, &site, &["gate", "on", "--confirm", "5s"]);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22));
    assert!(within(Duration::from_secs(7), || daemon.log().contains("not confirmed in time")));
    assert!(within(Duration::from_secs(1), || ruleset(&lab) == before), "{}", ruleset(&lab));
    assert!(lab.client.reaches(SERVER4, 22));
    // The end of the trial is stored, so a start closes nothing.
    drop(daemon);
    let _next = Daemon::start(&lab.server, &site);
    assert_eq!(ruleset(&lab), before);
}

#[test]
fn a_successful_knock_or_gate_on_confirms_a_trial() {
    let Some(lab) = Lab::new() else { return };
    for by_knock in [true, false] {
        let site = Site::new("", &open_ssh(1));
        lab.server.echo_once(22);
        let _daemon = Daemon::start(&lab.server, &site);
        admin(&lab, &site, &["gate", "on", "--confirm", "5s"]);
        if by_knock {
            assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        } else {
            admin(&lab, &site, &["gate", "on"]);
        }
        thread::sleep(Duration::from_millis(5_500));
        assert!(!lab.client.reaches(SERVER4, 22), "by knock: {by_knock}");
        admin(&lab, &site, &["gate", "off"]);
    }
}

#[test]
fn only_a_knock_of_the_named_client_confirms_a_trial_also_after_a_restart() {
    let Some(lab) = Lab::new() else { return };
    let more = "[client.job]\nkey = \"job.key\"\nallow = [\"open-ssh\"]\n";
    let site = Site::new("", &format!("{}{more}", open_ssh(1)));
    let job = site.add_key("job");
    let mut daemon = Daemon::start(&lab.server, &site);
    let unknown = lab.server.output(&mut site.admin(&["gate", "on", "--confirm", "60s", "--by", "tablet"]));
    assert!(!unknown.status.success(), "an unknown client is rejected");
    let output = admin(&lab, &site, &["gate", "on", "--confirm", "60s", "--by", "laptop"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("with the key of laptop"), "{output:?}");
    let on_trial = || {
        let output = admin(&lab, &site, &["status", "--json"]);
        String::from_utf8_lossy(&output.stdout).contains("\"state\":\"trial\"")
    };
    for restarted in [false, true] {
        if restarted {
            assert!(daemon.terminate().success());
            daemon = Daemon::start(&lab.server, &site);
        }
        assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &job.good()).is_some());
        assert!(on_trial(), "restarted: {restarted}");
    }
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(!on_trial());
}

#[test]
fn gate_off_removes_all_our_rules_and_gate_on_closes_again() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let before = ruleset(&lab);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22));
    admin(&lab, &site, &["gate", "off"]);
    assert_eq!(ruleset(&lab), before);
    daemon.reload();
    assert_eq!(ruleset(&lab), before, "a reload closes nothing");
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(lab.client.reaches(SERVER4, 22), "a start closes nothing either");
    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    assert!(output.status.success(), "it is open: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(ruleset(&lab), before);
    admin(&lab, &site, &["gate", "on"]);
    assert!(!lab.client.reaches(SERVER4, 22));
    drop(daemon);
    admin(&lab, &site, &["gate", "off"]);
    assert!(lab.client.reaches(SERVER4, 22), "also without a daemon");
}

#[test]
fn a_flushed_ruleset_is_restored_within_a_second_with_its_active_grants() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    for line in [
        "flush ruleset",
        "delete table inet spa_knock",
        "flush chain inet spa_knock gate",
        "flush table inet spa_knock",
    ] {
        lab.server.nft(line);
        let flushed = Instant::now();
        let closed =
            || lab.server.try_nft("list chain inet spa_knock gate").is_some_and(|text| text.contains("drop"));
        assert!(within(Duration::from_secs(1), closed), "{line}");
        println!("{line}: closed again after {:?}", flushed.elapsed());
        assert!(!lab.neighbor.reaches(SERVER4, 22), "{line}");
        assert!(lab.client.reaches(SERVER4, 22), "{line}: the active grant");
    }
    assert!(daemon.log().contains("another program changed our table"), "{}", daemon.log());
    let warnings = daemon.log().matches("another program").count();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(daemon.log().matches("another program").count(), warnings, "our own changes are not reported");
    // Changes of other tables are ignored.
    lab.server.nft("add table inet other");
    lab.server.nft("delete table inet other");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.log().matches("another program").count(), warnings);
}

#[test]
fn the_kernel_admits_the_failsafe_addresses_after_the_daemon_has_been_dead_until_it_restarts() {
    let Some(lab) = Lab::new() else { return };
    let failsafe = "failsafe = { after = \"30s\", allow = [\"10.77.0.0/24\", \"fd77::/64\"] }\n";
    let site = Site::new("", &open_ssh(30).replace("[action", &format!("{failsafe}[action")));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    daemon.kill9();
    let died = Instant::now();
    thread::sleep(Duration::from_secs(20));
    assert!(!lab.client.reaches(SERVER4, 22), "not yet");
    assert!(within(Duration::from_secs(12), || lab.client.reaches(SERVER4, 22)));
    println!("failsafe open after {:?}", died.elapsed());
    assert!(!lab.neighbor.reaches(SERVER4, 22), "and not to others");
    let _next = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22), "closed again by the start");
}

#[test]
fn in_set_mode_the_administrators_rules_close_ports_and_our_set_lists_the_grants() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2).replace("[action", "mode = \"set\"\n[action"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(lab.client.reaches(SERVER4, 22), "no rule closes the port");
    for line in [
        "add chain inet spa_knock mine { type filter hook input priority 0 ; policy accept ; }",
        "add rule inet spa_knock mine ct state established accept",
        "add rule inet spa_knock mine ip saddr . meta l4proto . th dport @grants4 accept",
        "add rule inet spa_knock mine tcp dport 22 drop",
    ] {
        lab.server.nft(line);
    }
    assert!(!lab.client.reaches(SERVER4, 22));
    daemon.reload();
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
    lab.client.wait_until_closed(SERVER4, 22);
}

#[test]
fn a_grant_that_does_not_fit_is_retried_once_and_then_reported() {
    // Filling a set takes minutes on a busy machine.
    if !full() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let config = open_ssh(30) + &holder("filler", "open-ssh");
    let site = Site::new("", &(config + &holder("other", "open-ssh")));
    for name in ["filler", "other"] {
        site.add_key(name);
    }
    lab.server.echo(22);
    let full = elements("filler", "open-ssh", 9..65_536) + &elements("other", "open-ssh", 0..9);
    let daemon = start_with(&lab, &site, &full);
    let laptop = site.key("laptop");
    // The reply arrives after the second attempt has failed too.
    let knock_until_reply = || {
        let datagram = laptop.seal(&knock("open-ssh"));
        let socket = lab.client.udp(CLIENT4);
        let reply = (0..10).find_map(|_| ask(&socket, SERVER4, datagram.as_bytes()))?;
        Some(laptop.open(&reply, &datagram).status)
    };
    assert_eq!(knock_until_reply(), Some(ReplyStatus::ActionFailed));
    let failed = site.audit_of("failed");
    assert!(!failed.is_empty());
    assert!(failed[0]["detail"].as_str().unwrap().contains("the grant set is full"), "{}", failed[0]);
    assert!(!lab.client.reaches(SERVER4, 22));
    // Space that becomes free before the second attempt is enough.
    let granted = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            admin(&lab, &site, &["revoke", "--all"]);
        });
        knock_until_reply()
    });
    assert_eq!(granted, Some(ReplyStatus::Granted), "{}", daemon.log());
    assert!(lab.client.reaches(SERVER4, 22));
    assert_eq!(site.audit_of("failed").len(), 1);
    assert_eq!(site.audit_of("replayed").len(), 0, "resends are not replays");
}

/// A mount namespace with the programs of this host, in which nft can be hidden.
struct HideableNft {
    mounts: Mounts,
    rest: PathBuf,
}

impl HideableNft {
    fn new(site: &Site) -> Self {
        let mounts = Mounts::new();
        let [all, rest] = ["all", "rest"].map(|name| site.path(name));
        for folder in [&all, &rest] {
            std::fs::create_dir(folder).unwrap();
        }
        mounts.mount(&["--bind", "/usr/sbin"], &all);
        mounts.run("sh", &["-c", &format!("ln -s -t {} {}/*", rest.display(), all.display())]);
        std::fs::remove_file(rest.join("nft")).unwrap();
        Self { mounts, rest }
    }

    fn hide(&self) {
        self.mounts.mount(&["--bind", self.rest.to_str().unwrap()], Path::new("/usr/sbin"));
    }

    fn show(&self) {
        self.mounts.run("umount", &["/usr/sbin"]);
    }

    fn command(&self, site: &Site) -> Command {
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::arguments(site));
        command
    }
}

#[test]
fn without_nft_the_daemon_names_the_package_and_it_restores_the_gate_once_nft_is_installed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let nft = HideableNft::new(&site);
    nft.hide();
    let output = lab.server.output(&mut nft.command(&site));
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("nft not found") && text.contains("apt install nftables"), "{text}");

    nft.show();
    let daemon = Daemon::start_command(&lab.server, nft.command(&site));
    nft.hide();
    let (laptop, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
    let status = || {
        let datagram = laptop.seal(&knock("open-ssh"));
        laptop.open(&ask(&socket, SERVER4, datagram.as_bytes()).expect("a reply"), &datagram).status
    };
    // A grant does not need nft, but restoring a table does.
    assert_eq!(status(), ReplyStatus::Granted);
    lab.server.nft("flush ruleset");
    assert_eq!(status(), ReplyStatus::ActionFailed);
    let failed = site.audit_of("failed");
    assert!(failed[0]["detail"].as_str().unwrap().contains("nft not found"), "{}", failed[0]);
    assert!(within(SOON, || daemon.log().contains("retrying")), "{}", daemon.log());
    nft.show();
    assert!(within(SOON, || !lab.neighbor.reaches(SERVER4, 22)), "the gate is restored: {}", daemon.log());
    assert_eq!(status(), ReplyStatus::Granted);
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn while_another_program_owns_the_table_knocks_fail_with_the_reason() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    // Only the socket that created such a table can change it, and the table is removed with that socket.
    let mut owner =
        lab.server.spawn(Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()));
    let mut input = owner.stdin.take().unwrap();
    let seize = "delete table inet spa_knock; add table inet spa_knock { flags owner; }\n";
    input.write_all(seize.as_bytes()).unwrap();
    let owned = || lab.server.nft("list ruleset").contains("flags owner");
    assert!(within(SOON, owned), "{}", lab.server.nft("list ruleset"));
    let (laptop, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
    let datagram = laptop.seal(&knock("open-ssh"));
    let reply = ask(&socket, SERVER4, datagram.as_bytes()).expect("a reply");
    assert_eq!(laptop.open(&reply, &datagram).status, ReplyStatus::ActionFailed);
    let failed = site.audit_of("failed");
    assert!(failed[0]["detail"].as_str().unwrap().contains("not allowed to change it"), "{}", failed[0]);
    drop(input);
    owner.wait().unwrap();
    assert!(within(SOON, || !lab.neighbor.reaches(SERVER4, 22)), "the gate is restored: {}", daemon.log());
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_boot_restores_the_last_loaded_gate_even_if_config_and_keys_have_changed() {
    for backend in ["nftables", "iptables"] {
        let Some(lab) = Lab::new() else { return };
        lab.server.echo(22);
        let firewall = open_ssh(2).replace("[firewall]", &format!("[firewall]\nbackend = \"{backend}\""));
        let site = Site::new("", &firewall);
        let state = site.path("state").display().to_string();
        let restore = || {
            let output = lab.server.output(&mut site.admin(&["restore-gate", "--state-dir", &state]));
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let boot = || {
            lab.server.nft("flush ruleset");
            assert!(lab.client.reaches(SERVER4, 22), "{backend}: as after a boot");
        };
        let (done, text) = restore();
        assert!(done && text.contains("never") && lab.client.reaches(SERVER4, 22), "{text}");

        let daemon = Daemon::start(&lab.server, &site);
        let (done, text) = restore();
        assert!(done && text.contains("running daemon"), "{text}");
        assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        lab.client.wait_until_closed(SERVER4, 22);
        drop(daemon);
        fs::write(site.path("spa-knockd.toml"), "nonsense").unwrap();
        fs::remove_file(site.key_path("laptop")).unwrap();
        for damage in [None, Some("boot-gate"), Some("boot-gate.copy")] {
            boot();
            if let Some(name) = damage {
                fs::write(site.path("state").join(name), "damaged").unwrap();
            }
            let (done, text) = restore();
            if damage == Some("boot-gate.copy") {
                assert!(!done && text.contains("stays as it is until the daemon is started"), "{text}");
            } else {
                assert!(done && !lab.client.reaches(SERVER4, 22), "{backend}: {text}");
            }
        }

        // A daemon that starts afterwards takes over the restored gate and writes the files again.
        site.write_config("", &firewall);
        site.add_key("laptop");
        let daemon = Daemon::start(&lab.server, &site);
        assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        assert!(lab.client.reaches(SERVER4, 22), "{backend}");
        lab.client.wait_until_closed(SERVER4, 22);
        drop(daemon);
        boot();
        assert!(restore().0 && !lab.client.reaches(SERVER4, 22), "{backend}");
        assert!(lab.server.output(&mut site.admin(&["gate", "off"])).status.success());
        boot();
        let (done, text) = restore();
        assert!(done && text.contains("off") && lab.client.reaches(SERVER4, 22), "{text}");
    }
}

#[test]
fn a_command_that_does_not_reach_the_daemon_of_the_gate_fails_with_a_hint() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let (site, other) = (Site::new("", &open_ssh(30)), Site::new("", &open_ssh(30)));
    let _daemon = Daemon::start(&lab.server, &site);
    let closed = || within(SOON, || !lab.client.reaches(SERVER4, 22));
    for (row, used) in [("another config", &other), ("its socket is gone", &site)] {
        if row != "another config" {
            fs::remove_file(site.path("control.sock")).unwrap();
        }
        for args in [&["gate", "off"][..], &["gate", "on"], &["let-in", "10.77.1.2"]] {
            let output = lab.server.output(&mut used.admin(args));
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{row}: {args:?}: {text}");
            assert!(
                text.contains("a running daemon") && text.contains("hint: name that daemon's config"),
                "{row}: {args:?}: {text}"
            );
            assert!(closed(), "{row}: {args:?}");
        }
        let output = lab.server.output(&mut used.admin(&["client", "revoke", "laptop"]));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{row}: {text}");
        assert!(text.contains("the running daemon still accepts it"), "{row}: {text}");
    }
}

#[test]
fn a_request_to_a_hanging_daemon_is_not_executed_after_its_sender_has_gone() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22));
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    let mut sender = UnixStream::connect(site.path("control.sock")).unwrap();
    sender.write_all(b"{\"request\":\"gate\",\"to\":\"off\",\"trial_ms\":null,\"by\":null}\n").unwrap();
    drop(sender);
    kill(daemon.id(), Signal::SIGCONT).unwrap();
    // The reply to this request shows that the earlier request has been handled.
    admin(&lab, &site, &["status"]);
    assert!(!lab.client.reaches(SERVER4, 22), "{}", daemon.log());
    // A request whose sender waits for the reply is executed.
    let mut sender = UnixStream::connect(site.path("control.sock")).unwrap();
    sender.write_all(b"{\"request\":\"gate\",\"to\":\"off\",\"trial_ms\":null,\"by\":null}\n").unwrap();
    let mut reply = String::new();
    sender.read_to_string(&mut reply).unwrap();
    assert!(reply.contains("done") && lab.client.reaches(SERVER4, 22), "{reply}");
}
