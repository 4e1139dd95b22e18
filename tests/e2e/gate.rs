//! The gate as a whole: on trial, off, flushed by somebody else, and what the kernel does when nobody is alive.

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
    CLIENT4, Daemon, Lab, Mounts, SERVER4, Site, ask, ask_patiently, converse, full, knock, open_ssh, within,
};

/// How long the daemon may take to mend what somebody has broken.
const SOON: Duration = Duration::from_secs(3);

fn admin(lab: &Lab, site: &Site, words: &[&str]) -> Output {
    let output = lab.server.output(&mut site.admin(words));
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn ruleset(lab: &Lab) -> String {
    lab.server.nft("list ruleset")
}

#[test]
fn a_trial_that_nobody_confirms_ends_in_the_kernel_though_every_process_is_dead() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let mut session = lab.client.connect(SERVER4, 22).unwrap();
    let begun = Instant::now();
    // No daemon runs at all, and then none is left.
    admin(&lab, &site, &["gate", "on", "--confirm", "5s"]);
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(converse(&mut session), "the connection that it is set up from is not cut");
    assert!(!lab.client.reaches(SERVER4, 22));
    daemon.kill9();
    assert!(!lab.client.reaches(SERVER4, 22));
    assert!(within(Duration::from_secs(7), || lab.client.reaches(SERVER4, 22)));
    let open = begun.elapsed();
    assert!((Duration::from_millis(4_500)..Duration::from_millis(6_500)).contains(&open), "{open:?}");
    assert!(converse(&mut session));
}

#[test]
fn a_living_daemon_takes_away_all_that_is_its_own_when_a_trial_is_over() {
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
    assert!(within(Duration::from_secs(7), || daemon.log().contains("nobody has confirmed it in time")));
    assert!(within(Duration::from_secs(1), || ruleset(&lab) == before), "{}", ruleset(&lab));
    assert!(lab.client.reaches(SERVER4, 22));
    // It is remembered: a start closes nothing.
    drop(daemon);
    let _next = Daemon::start(&lab.server, &site);
    assert_eq!(ruleset(&lab), before);
}

#[test]
fn a_knock_that_works_or_gate_on_confirms_a_trial() {
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
    let stranger = lab.server.output(&mut site.admin(&["gate", "on", "--confirm", "60s", "--by", "tablet"]));
    assert!(!stranger.status.success(), "there is no such client");
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
fn gate_off_removes_all_of_ours_and_gate_on_closes_again() {
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
    assert!(lab.client.reaches(SERVER4, 22), "nor does a start");
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
fn a_ruleset_that_somebody_flushed_is_back_within_a_second_with_its_live_grants() {
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
        assert!(!lab.neighbour.reaches(SERVER4, 22), "{line}");
        assert!(lab.client.reaches(SERVER4, 22), "{line}: the live grant");
    }
    assert!(daemon.log().contains("somebody else has changed our table"), "{}", daemon.log());
    let told = daemon.log().matches("somebody else").count();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(
        daemon.log().matches("somebody else").count(),
        told,
        "our own changes are not taken for theirs"
    );
    // What others do elsewhere is none of our business.
    lab.server.nft("add table inet other");
    lab.server.nft("delete table inet other");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.log().matches("somebody else").count(), told);
}

#[test]
fn when_the_daemon_has_been_dead_for_long_the_kernel_lets_some_in_until_it_is_back() {
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
    assert!(!lab.neighbour.reaches(SERVER4, 22), "and not to others");
    let _next = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22), "shut again at once");
}

#[test]
fn in_set_mode_the_admins_own_rules_close_and_ours_only_name_who_may_come_in() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2).replace("[action", "mode = \"set\"\n[action"));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(lab.client.reaches(SERVER4, 22), "nothing closes it");
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
    lab.client.closing(SERVER4, 22);
}

#[test]
fn what_finds_no_room_is_tried_once_more_and_then_told() {
    // A whole set takes minutes on a busy machine.
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
    // The answer comes when a second try has found no room either.
    let patiently = || {
        let datagram = laptop.seal(&knock("open-ssh"));
        let socket = lab.client.udp(CLIENT4);
        let answer = (0..10).find_map(|_| ask(&socket, SERVER4, datagram.as_bytes()))?;
        Some(laptop.open(&answer, &datagram).status)
    };
    assert_eq!(patiently(), Some(ReplyStatus::ActionFailed));
    let failed = site.audit_of("failed");
    assert!(!failed.is_empty());
    assert!(failed[0]["detail"].as_str().unwrap().contains("the set of grants is full"), "{}", failed[0]);
    assert!(!lab.client.reaches(SERVER4, 22));
    // Room that comes before the second try is enough.
    let granted = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            admin(&lab, &site, &["revoke", "--all"]);
        });
        patiently()
    });
    assert_eq!(granted, Some(ReplyStatus::Granted), "{}", daemon.log());
    assert!(lab.client.reaches(SERVER4, 22));
    assert_eq!(site.audit_of("failed").len(), 1);
    assert_eq!(site.audit_of("replayed").len(), 0, "resends are no replays");
}

/// A mount namespace whose programs are those of this host, but for nft as long as it is hidden.
struct Hidden {
    mounts: Mounts,
    rest: PathBuf,
}

impl Hidden {
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
        let [nsenter, entrance] = self.mounts.words();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::words(site));
        command
    }
}

#[test]
fn without_nft_the_daemon_says_what_to_install_and_mends_the_gate_when_it_is_there() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let nft = Hidden::new(&site);
    nft.hide();
    let output = lab.server.output(&mut nft.command(&site));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nft not found") && said.contains("apt install nftables"), "{said}");

    nft.show();
    let daemon = Daemon::start_command(&lab.server, nft.command(&site));
    nft.hide();
    let (laptop, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
    let status = || {
        let datagram = laptop.seal(&knock("open-ssh"));
        laptop.open(&ask(&socket, SERVER4, datagram.as_bytes()).expect("an answer"), &datagram).status
    };
    // What is granted needs no nft, but a table that is gone does.
    assert_eq!(status(), ReplyStatus::Granted);
    lab.server.nft("flush ruleset");
    assert_eq!(status(), ReplyStatus::ActionFailed);
    let failed = site.audit_of("failed");
    assert!(failed[0]["detail"].as_str().unwrap().contains("nft not found"), "{}", failed[0]);
    assert!(within(SOON, || daemon.log().contains("trying again")), "{}", daemon.log());
    nft.show();
    assert!(within(SOON, || !lab.neighbour.reaches(SERVER4, 22)), "the gate is back: {}", daemon.log());
    assert_eq!(status(), ReplyStatus::Granted);
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn while_somebody_else_owns_the_table_knocks_fail_and_say_why() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    // Only the socket that made it may change such a table, and it goes with that socket.
    let mut owner =
        lab.server.spawn(Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()));
    let mut words = owner.stdin.take().unwrap();
    let seize = "delete table inet spa_knock; add table inet spa_knock { flags owner; }\n";
    words.write_all(seize.as_bytes()).unwrap();
    let owned = || lab.server.nft("list ruleset").contains("flags owner");
    assert!(within(SOON, owned), "{}", lab.server.nft("list ruleset"));
    let (laptop, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
    let datagram = laptop.seal(&knock("open-ssh"));
    let answer = ask(&socket, SERVER4, datagram.as_bytes()).expect("an answer");
    assert_eq!(laptop.open(&answer, &datagram).status, ReplyStatus::ActionFailed);
    let failed = site.audit_of("failed");
    assert!(failed[0]["detail"].as_str().unwrap().contains("not allowed to change it"), "{}", failed[0]);
    drop(words);
    owner.wait().unwrap();
    assert!(within(SOON, || !lab.neighbour.reaches(SERVER4, 22)), "the gate is back: {}", daemon.log());
    assert!(ask(&socket, SERVER4, &laptop.good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_boot_closes_the_gate_as_it_was_last_loaded_whatever_the_config_and_the_keys_are_now() {
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
        let (done, said) = restore();
        assert!(done && said.contains("never") && lab.client.reaches(SERVER4, 22), "{said}");

        let daemon = Daemon::start(&lab.server, &site);
        let (done, said) = restore();
        assert!(done && said.contains("running daemon"), "{said}");
        assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        lab.client.closing(SERVER4, 22);
        drop(daemon);
        fs::write(site.path("spa-knockd.toml"), "nonsense").unwrap();
        fs::remove_file(site.key_path("laptop")).unwrap();
        for damage in [None, Some("boot-gate"), Some("boot-gate.copy")] {
            boot();
            if let Some(name) = damage {
                fs::write(site.path("state").join(name), "damaged").unwrap();
            }
            let (done, said) = restore();
            if damage == Some("boot-gate.copy") {
                assert!(!done && said.contains("stays as it is until the daemon is started"), "{said}");
            } else {
                assert!(done && !lab.client.reaches(SERVER4, 22), "{backend}: {said}");
            }
        }

        // A daemon that starts takes over what the boot has closed, and writes the files again.
        site.write_config("", &firewall);
        site.add_key("laptop");
        let daemon = Daemon::start(&lab.server, &site);
        assert!(ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        assert!(lab.client.reaches(SERVER4, 22), "{backend}");
        lab.client.closing(SERVER4, 22);
        drop(daemon);
        boot();
        assert!(restore().0 && !lab.client.reaches(SERVER4, 22), "{backend}");
        assert!(lab.server.output(&mut site.admin(&["gate", "off"])).status.success());
        boot();
        let (done, said) = restore();
        assert!(done && said.contains("off") && lab.client.reaches(SERVER4, 22), "{said}");
    }
}

#[test]
fn a_command_that_does_not_reach_the_daemon_with_the_gate_says_that_it_does_not_last() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    let (site, other) = (Site::new("", &open_ssh(30)), Site::new("", &open_ssh(30)));
    let _daemon = Daemon::start(&lab.server, &site);
    let closed = || within(SOON, || !lab.client.reaches(SERVER4, 22));
    for (row, asked) in [("another config", &other), ("its socket is gone", &site)] {
        if row != "another config" {
            fs::remove_file(site.path("control.sock")).unwrap();
        }
        for words in [&["gate", "off"][..], &["gate", "on"], &["let-in", "10.77.1.2"]] {
            let output = lab.server.output(&mut asked.admin(words));
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{row}: {words:?}: {text}");
            assert!(
                text.contains("a daemon runs") && text.contains("hint: -c names"),
                "{row}: {words:?}: {text}"
            );
            assert!(closed(), "{row}: {words:?}");
        }
        let output = lab.server.output(&mut asked.admin(&["client", "revoke", "laptop"]));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{row}: {text}");
        assert!(text.contains("the running daemon still accepts it"), "{row}: {text}");
    }
}

#[test]
fn what_a_hanging_daemon_was_asked_by_a_command_that_has_given_up_is_not_done_later() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22));
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    let mut asker = UnixStream::connect(site.path("control.sock")).unwrap();
    asker.write_all(b"{\"request\":\"gate\",\"to\":\"off\",\"trial_ms\":null,\"by\":null}\n").unwrap();
    drop(asker);
    kill(daemon.id(), Signal::SIGCONT).unwrap();
    // Once this is answered, so is all that was asked before.
    admin(&lab, &site, &["status"]);
    assert!(!lab.client.reaches(SERVER4, 22), "{}", daemon.log());
    // Asked by who waits for the answer, it is done.
    let mut asker = UnixStream::connect(site.path("control.sock")).unwrap();
    asker.write_all(b"{\"request\":\"gate\",\"to\":\"off\",\"trial_ms\":null,\"by\":null}\n").unwrap();
    let mut answer = String::new();
    asker.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("done") && lab.client.reaches(SERVER4, 22), "{answer}");
}
