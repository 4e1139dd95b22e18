//! `spa-knock keep`: a port that stays open as long as a command runs, whatever happens to grants, addresses and the
//! server in the meantime.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::net::{Daemon, Lab, Mounts, SERVER4, SERVER6, Site, open_ssh, within};

/// How soon a port must be open again after the own address has changed.
const REOPENED: Duration = Duration::from_secs(2);

/// A running `spa-knock keep`; killed with its command when dropped.
struct Keep<'a> {
    child: Child,
    site: &'a Site,
    ended: bool,
}

/// `spa-knock keep` with these arguments. Its messages go to a file of the site.
fn command(site: &Site, args: &[&str]) -> Command {
    // Tests may run in the background of a shell, which then ignores SIGINT, and so would keep.
    let mut command = Command::new("env");
    command.args(["--default-signal", env!("CARGO_BIN_EXE_spa-knock"), "keep"]).args(args);
    command.env_remove("SPA_KNOCK_KEY").env("HOME", site.folder());
    for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
        command.env(name, site.path(folder));
    }
    let messages = fs::File::create(site.path("messages")).unwrap();
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages);
    command
}

impl<'a> Keep<'a> {
    /// Starts it with `laptop`'s key and these arguments.
    fn start(lab: &Lab, site: &'a Site, args: &[&str]) -> Self {
        let key = site.key_path("laptop");
        let args = [&["--key", key.to_str().unwrap()], args].concat();
        Self { child: lab.client.spawn(&mut command(site, &args)), site, ended: false }
    }

    fn messages(&self) -> String {
        fs::read_to_string(self.site.path("messages")).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its end and returns the exit code.
    fn code(mut self) -> Option<i32> {
        let ended = within(Duration::from_secs(30), || self.child.try_wait().unwrap().is_some());
        assert!(ended, "keep runs on: {}", self.messages());
        self.ended = true;
        self.child.wait().unwrap().code()
    }
}

impl Drop for Keep<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("messages of keep:\n{}", self.messages());
        }
        if !self.ended {
            let _ = killpg(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Waits until the port is open, and returns when. Each attempt is short, because a dropped SYN is sent again after 1 s.
fn open_at(lab: &Lab, server: IpAddr, limit: Duration) -> Option<Instant> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if lab.client.connect_within(server, 22, Duration::from_millis(50)).is_some() {
            return Some(Instant::now());
        }
        thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Changes the address ten times at different moments, and returns the longest time until the port was open again.
fn longest_time_to_reopen(lab: &Lab, site: &Site) -> Duration {
    let mut longest = Duration::ZERO;
    let mut own = [2_u8, 2];
    for number in 0..10_u8 {
        let (server, family) = [(SERVER4, 0), (SERVER6, 1)][usize::from(number % 2)];
        let address = |last: u8| match family {
            0 => format!("10.77.0.{last}/24"),
            _ => format!("fd77::{last}/64"),
        };
        let keep = Keep::start(lab, site, &[&server.to_string(), "open-ssh"]);
        // The port can be open already, because of an earlier grant for this address.
        assert!(within(Duration::from_secs(10), || keep.messages().contains("renewing it every")));
        // Also in the same second as the first knock.
        thread::sleep(Duration::from_millis(u64::from(number) * 170));
        let new = 100 + number;
        let start = Instant::now();
        lab.client.ip(&format!("addr del {} dev eth0", address(own[family])));
        lab.client.ip(&format!("addr add {} dev eth0", address(new)));
        let open = open_at(lab, server, Duration::from_secs(20)).expect("open again");
        let time = open - start;
        println!("{server}: open again {time:?} after the change of the address");
        longest = longest.max(time);
        own[family] = new;
        drop(keep);
    }
    for (family, usual) in [(0, "10.77.0.2/24"), (1, "fd77::2/64")] {
        let prefix = ["10.77.0.", "fd77::"][family];
        let length = ["24", "64"][family];
        lab.client.ip(&format!("addr del {prefix}{}/{length} dev eth0", own[family]));
        lab.client.ip(&format!("addr add {usual} dev eth0"));
    }
    longest
}

#[test]
fn a_port_is_open_again_within_2_seconds_after_the_own_address_has_changed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let longest = longest_time_to_reopen(&lab, &site);
    println!("10 changes of the address: open again after {longest:?} at most");
    assert!(longest < REOPENED, "{longest:?}");
}

#[test]
fn a_port_is_open_again_within_2_seconds_beside_two_busy_processes() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let stop = AtomicBool::new(false);
    let longest = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let longest =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| longest_time_to_reopen(&lab, &site)));
        stop.store(true, Ordering::Relaxed);
        longest
    });
    let longest = longest.unwrap();
    println!("10 changes of the address beside two busy threads: open again after {longest:?} at most");
    assert!(longest < REOPENED, "{longest:?}");
}

/// `spa-knock keep -v bastion.test open-ssh` in a mount namespace, where the site's `hosts` are known, and no name server
/// replies: each lookup there takes several seconds.
fn command_with_names(site: &Site, mounts: &Mounts) -> Command {
    for (name, text, path) in [
        ("resolv.conf", "nameserver 10.77.0.77\n", "/etc/resolv.conf"),
        ("nsswitch.conf", "hosts: files dns\n", "/etc/nsswitch.conf"),
    ] {
        fs::write(site.path(name), text).unwrap();
        mounts.mount(&["--bind", site.path(name).to_str().unwrap()], Path::new(path));
    }
    mounts.mount(&["--bind", site.path("hosts").to_str().unwrap()], Path::new("/etc/hosts"));
    let plain = command(
        site,
        &["--key", site.key_path("laptop").to_str().unwrap(), "-v", "bastion.test", "open-ssh"],
    );
    let [nsenter, entrance] = mounts.nsenter();
    let mut inside = Command::new(nsenter);
    inside
        .arg(entrance)
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_remove("SPA_KNOCK_KEY")
        .process_group(0);
    inside
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(site.path("messages")).unwrap());
    for (name, value) in plain.get_envs() {
        value.map(|value| inside.env(name, value));
    }
    inside
}

#[test]
fn in_a_network_with_one_ip_version_the_knock_goes_to_the_servers_address_of_that_version() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(60));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let mounts = Mounts::new();
    fs::write(site.path("hosts"), "10.77.0.1 bastion.test\nfd77::1 bastion.test\n").unwrap();
    let mut inside = command_with_names(&site, &mounts);
    let keep = Keep { child: lab.client.spawn(&mut inside), site: &site, ended: false };
    assert!(within(Duration::from_secs(10), || keep.messages().contains("renewing it every")));
    let [first, other] =
        if lab.client.reaches(SERVER4, 22) { [SERVER4, SERVER6] } else { [SERVER6, SERVER4] };
    assert!(!lab.client.reaches(other, 22), "one address is enough");
    lab.client.ip(if first == SERVER4 {
        "addr del 10.77.0.2/24 dev eth0"
    } else {
        "addr del fd77::2/64 dev eth0"
    });
    let change = Instant::now();
    let open = open_at(&lab, other, Duration::from_secs(20)).expect("open again");
    println!("open over the other IP version {:?} after the loss of {first}", open - change);
    assert!(open - change < REOPENED);
}

#[test]
fn no_renewal_and_no_change_of_the_address_depends_on_a_name_server() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(6));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let mounts = Mounts::new();
    let hosts = site.path("hosts");
    fs::write(&hosts, "10.77.0.1 bastion.test\n").unwrap();
    let mut inside = command_with_names(&site, &mounts);
    let keep = Keep { child: lab.client.spawn(&mut inside), site: &site, ended: false };
    open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
    fs::write(&hosts, "").unwrap();
    let (end, mut probes) = (Instant::now() + Duration::from_secs(14), 0);
    while Instant::now() < end {
        assert!(lab.client.reaches(SERVER4, 22), "after {probes} probes");
        probes += 1;
        thread::sleep(Duration::from_millis(50));
    }
    lab.client.ip("addr del 10.77.0.2/24 dev eth0");
    lab.client.ip("addr add 10.77.0.3/24 dev eth0");
    let change = Instant::now();
    let open = open_at(&lab, SERVER4, Duration::from_secs(20)).expect("open again");
    println!("{probes} probes without a name server; open again {:?} after a change", open - change);
    assert!(open - change < REOPENED);
    // The server moves, and the name server knows.
    lab.server.ip("addr add 10.77.0.8/24 dev lan0");
    fs::write(&hosts, "10.77.0.8 bastion.test\n").unwrap();
    let knock = "knocking at 10.77.0.8 ";
    assert!(
        within(Duration::from_secs(10), || keep.messages().contains(knock)),
        "the name is resolved again"
    );
}

#[test]
fn a_port_sequence_is_renewed_and_sent_again_from_a_new_address() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &format!("[ports]\n{}", open_ssh(60)));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    // The wait includes another sequence in the next time step, because the server has just started.
    let args = ["--ports", "--every", "15s", "--wait", "22", "-v", "10.77.0.1", "open-ssh"];
    let keep = Keep::start(&lab, &site, &args);
    let until_ctrl_c = "renewing it every 15s until Ctrl-C";
    assert!(
        within(Duration::from_secs(40), || keep.messages().contains(until_ctrl_c)),
        "{}",
        keep.messages()
    );
    lab.client.ip("addr del 10.77.0.2/24 dev eth0");
    lab.client.ip("addr add 10.77.0.3/24 dev eth0");
    let change = Instant::now();
    let open = open_at(&lab, SERVER4, Duration::from_secs(20)).expect("open again");
    println!("open again {:?} after a change of the address, by a port sequence", open - change);
    assert!(within(Duration::from_secs(40), || site.audit_of("granted").len() >= 3), "{}", keep.messages());
}

/// Probes the port all the time until `stop`, and counts the probes that failed.
fn failed_probes(lab: &Lab, stop: &AtomicBool, probes: &AtomicUsize) -> usize {
    let mut failed = 0;
    while !stop.load(Ordering::SeqCst) {
        failed += usize::from(!lab.client.reaches(SERVER4, 22));
        probes.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(20));
    }
    failed
}

#[test]
fn a_grant_of_3_seconds_stays_open_without_a_gap_while_the_command_runs() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    for (name, args) in [
        ("with replies", &["10.77.0.1", "open-ssh", "--", "sleep", "11"][..]),
        ("without replies", &["--no-reply", "--every", "1s", "10.77.0.1", "open-ssh", "--", "sleep", "5"]),
    ] {
        let before = site.audit_of("granted").len();
        let keep = Keep::start(&lab, &site, args);
        open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
        let (stop, probes) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (failed, code, messages) = thread::scope(|scope| {
            let probing = scope.spawn(|| failed_probes(&lab, &stop, &probes));
            let site = keep.site;
            let code = keep.code();
            stop.store(true, Ordering::SeqCst);
            (probing.join().unwrap(), code, fs::read_to_string(site.path("messages")).unwrap())
        });
        let probes = probes.load(Ordering::SeqCst);
        let granted = site.audit_of("granted").len() - before;
        println!("{name}: {probes} probes, {failed} failed; {granted} grants");
        assert!(probes > 50, "{probes}");
        assert_eq!((failed, code, messages.as_str()), (0, Some(0), ""), "{name}");
        assert!((5..=7).contains(&granted), "{granted}");
        lab.client.wait_until_closed(SERVER4, 22);
    }
}

#[test]
fn keep_retries_while_the_server_is_down_and_prints_two_lines() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let keep = Keep::start(&lab, &site, &["--timeout", "1s", "10.77.0.1", "open-ssh", "--", "sleep", "60"]);
    open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
    daemon.kill9();
    assert!(within(Duration::from_secs(25), || keep.messages().contains('\n')), "the failure is reported");
    assert!(!lab.client.reaches(SERVER4, 22));
    thread::sleep(Duration::from_secs(3));
    let failure = "spa-knock: 10.77.0.1: no reply from 10.77.0.1 port 62201 within 1s; the port is closed for new \
                   connections; trying again\n";
    assert_eq!(keep.messages(), failure, "once");
    let _daemon = Daemon::start(&lab.server, &site);
    open_at(&lab, SERVER4, Duration::from_secs(30)).expect("open again");
    assert!(within(Duration::from_secs(5), || keep.messages().len() > failure.len()));
    thread::sleep(Duration::from_secs(3));
    assert_eq!(
        keep.messages(),
        format!("{failure}spa-knock: 10.77.0.1: open-ssh granted to 10.77.0.2 for 3s; renewed again\n")
    );
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_refused_renewal_is_reported_with_its_reason_and_the_command_continues() {
    let Some(lab) = Lab::new() else { return };
    let config = open_ssh(3).replace("allow =", "uses = 2\nallow =");
    let site = Site::new("", &config);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let keep = Keep::start(&lab, &site, &["10.77.0.1", "open-ssh", "--", "sh", "-c", "sleep 9; exit 5"]);
    assert!(within(Duration::from_secs(15), || keep.messages().contains('\n')), "the refusal is reported");
    thread::sleep(Duration::from_secs(2));
    let messages = keep.messages();
    assert_eq!(
        messages,
        "spa-knock: 10.77.0.1: open-ssh refused: limit reached or key expired (key has no uses left); the port closes for \
         new connections in 1s; trying again every 30s\n"
    );
    assert_eq!(keep.code(), Some(5));
    assert_eq!(site.audit_of("granted").len(), 2);
    assert_eq!(site.audit_of("refused").len(), 1, "it is not tried again soon");
}

#[test]
fn addresses_that_change_all_the_time_do_not_use_up_the_rate() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(60));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let keep = Keep::start(&lab, &site, &["10.77.0.1", "open-ssh"]);
    open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
    let start = Instant::now();
    let mut changes = 0_usize;
    while start.elapsed() < Duration::from_secs(20) {
        let [old, new] = if changes.is_multiple_of(2) { ["2", "3"] } else { ["3", "2"] };
        lab.client.ip(&format!("addr del 10.77.0.{old}/24 dev eth0"));
        lab.client.ip(&format!("addr add 10.77.0.{new}/24 dev eth0"));
        changes += 1;
        thread::sleep(Duration::from_millis(600));
    }
    lab.client.ip(&format!("addr del 10.77.0.{}/24 dev eth0", if changes.is_multiple_of(2) { 2 } else { 3 }));
    lab.client.ip("addr add 10.77.0.9/24 dev eth0");
    let change = Instant::now();
    let open = open_at(&lab, SERVER4, Duration::from_secs(20)).expect("open for the last address");
    let granted = site.audit_of("granted").len();
    println!(
        "{changes} changes in 20 s: {granted} knocks; open for the last address {:?} later",
        open - change
    );
    // The first knock, four immediate ones, and one every 15 s.
    assert!((5..=8).contains(&granted), "{granted}");
    drop(keep);
}

#[test]
fn a_route_that_comes_back_and_a_process_that_continues_lead_to_a_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let keep = Keep::start(&lab, &site, &["10.77.0.1", "open-ssh", "--", "sleep", "60"]);
    open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
    lab.client.ip("link set eth0 down");
    thread::sleep(Duration::from_secs(6));
    lab.client.ip("link set eth0 up");
    let up = Instant::now();
    let open = open_at(&lab, SERVER4, Duration::from_secs(20)).expect("open again");
    println!("open again {:?} after the link was up", open - up);
    assert!(open - up < REOPENED);

    keep.signal(Signal::SIGSTOP);
    lab.client.wait_until_closed(SERVER4, 22);
    keep.signal(Signal::SIGCONT);
    let continued = Instant::now();
    let open = open_at(&lab, SERVER4, Duration::from_secs(20)).expect("open again");
    println!("open again {:?} after the process continued", open - continued);
    assert!(open - continued < REOPENED);
}

const ACTIONS: &str = r#"
[firewall]
protect = ["tcp/22"]

[action.open-ssh]
open = ["tcp/22"]
for = "3s"

[action.note]
run = ["/bin/true"]

[client.laptop]
key = "laptop.key"
allow = ["open-ssh", "note"]
"#;

#[test]
fn the_exit_code_is_the_commands_or_that_of_the_first_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    let _daemon = Daemon::start(&lab.server, &site);
    let started = site.path("started");
    let mark = format!("echo > {}", started.display());
    let plain = site.path("plain");
    fs::write(&plain, "").unwrap();
    let plain = plain.to_str().unwrap();
    let not_executable = format!("spa-knock: {plain}: permission denied\n");
    let sh = |script| ["10.77.0.1", "open-ssh", "--", "sh", "-c", script];
    for (args, code, message) in [
        (&sh("exit 0")[..], 0, ""),
        (&sh("exit 7"), 7, ""),
        (&sh("kill -KILL $$"), 137, ""),
        (&["10.77.0.1", "open-ssh", "--", "/no/such"], 127, "spa-knock: /no/such: not found\n"),
        (&["10.77.0.1", "open-ssh", "--", plain], 126, &not_executable),
        (
            &["10.77.0.1", "open-shs", "--", "sh", "-c", &mark],
            1,
            "spa-knock: 10.77.0.1: open-shs refused: unknown action (no action named 'open-shs')\nhint: ",
        ),
        (
            &["--timeout", "200ms", "10.77.0.99", "open-ssh", "--", "sh", "-c", &mark],
            3,
            "spa-knock: 10.77.0.99: no reply from 10.77.0.99 port 62201 within 200ms\nhint: ",
        ),
        (
            &["10.77.0.1", "note", "--", "sh", "-c", &mark],
            2,
            "spa-knock: 10.77.0.1: note started; the action opens nothing that ends: keep is not needed\nhint: ",
        ),
        (&["--every", "1s", "10.77.0.1", "note", "--", "sh", "-c", "sleep 2.5; exit 9"], 9, ""),
    ] {
        let keep = Keep::start(&lab, &site, args);
        let ended = keep.code();
        let messages = fs::read_to_string(site.path("messages")).unwrap();
        assert_eq!(ended, Some(code), "{args:?}: {messages}");
        match message {
            "" => assert_eq!(messages, "", "{args:?}"),
            _ => assert!(messages.starts_with(message), "{args:?}: {messages}"),
        }
    }
    assert!(!started.exists(), "no command is started after a failed knock");
    assert_eq!(
        site.audit_of("done").len(),
        4,
        "the action that opens nothing: once, and three times with --every"
    );
}

#[test]
fn signals_end_keep_or_its_command() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let open = || open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let keep = Keep::start(&lab, &site, &["10.77.0.1", "open-ssh"]);
        let line =
            "spa-knock: 10.77.0.1: open-ssh granted to 10.77.0.2 for 3s; renewing it every 2s until Ctrl-C\n";
        assert!(within(Duration::from_secs(10), || keep.messages() == line), "{}", keep.messages());
        let sent = Instant::now();
        keep.signal(signal);
        assert_eq!(keep.code(), Some(0), "{signal}");
        assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
        lab.client.wait_until_closed(SERVER4, 22);
    }
    let ready = site.path("ready");
    let script = |trap: &str| format!("trap '{trap}' TERM HUP; echo > {}; sleep 20 & wait", ready.display());
    for (signal, trap, code) in [
        (Signal::SIGTERM, "exit 6", 6),
        (Signal::SIGHUP, "exit 8", 8),
        (Signal::SIGTERM, "trap - TERM; kill -TERM $$", 143),
    ] {
        let keep = Keep::start(&lab, &site, &["10.77.0.1", "open-ssh", "--", "sh", "-c", &script(trap)]);
        open();
        assert!(within(Duration::from_secs(10), || ready.exists()));
        // The terminal would have sent it to the command, too.
        keep.signal(Signal::SIGINT);
        thread::sleep(Duration::from_millis(200));
        let sent = Instant::now();
        keep.signal(signal);
        let group = keep.child.id();
        assert_eq!(keep.code(), Some(code), "{signal}");
        println!("{signal}: ended after {:?}", sent.elapsed());
        let _ = killpg(Pid::from_raw(group.try_into().unwrap()), Signal::SIGKILL);
        fs::remove_file(&ready).unwrap();
        lab.client.wait_until_closed(SERVER4, 22);
    }
}

/// The state of a process in /proc, such as `T` for stopped.
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn a_command_that_suspends_itself_suspends_keep_so_that_the_shell_can_continue_both() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    let _daemon = Daemon::start(&lab.server, &site);
    let args = ["10.77.0.1", "open-ssh", "--", "sh", "-c", "kill -TSTP $$; exit 5"];
    let keep = Keep::start(&lab, &site, &args);
    let pid = keep.child.id();
    assert!(within(Duration::from_secs(10), || state_of(pid) == Some('T')));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(state_of(pid), Some('T'));
    // As `fg` does.
    killpg(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGCONT).unwrap();
    assert_eq!(keep.code(), Some(5));
}

#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    let _daemon = Daemon::start(&lab.server, &site);
    let plain = command(&site, &["--key", site.key_path("laptop").to_str().unwrap()]);
    // As nohup does.
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).args(plain.get_args().skip(1));
    ignoring.args(["10.77.0.1", "open-ssh", "--", "sleep", "4"]).process_group(0);
    for (name, value) in plain.get_envs() {
        value.map(|value| ignoring.env(name, value));
    }
    let keep = Keep { child: lab.client.spawn(&mut ignoring), site: &site, ended: false };
    assert!(within(Duration::from_secs(10), || !site.audit_of("granted").is_empty()));
    thread::sleep(Duration::from_millis(500));
    killpg(Pid::from_raw(keep.child.id().try_into().unwrap()), Signal::SIGHUP).unwrap();
    assert_eq!(keep.code(), Some(0), "neither keep nor its command is ended by a hangup");
}

#[test]
fn each_renewal_of_an_action_for_one_connection_admits_one_again() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &ACTIONS.replace("for =", "once = true\nfor ="));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let _keep = Keep::start(&lab, &site, &["10.77.0.1", "open-ssh"]);
    for connection in ["first", "second", "third"] {
        open_at(&lab, SERVER4, Duration::from_secs(10)).expect(connection);
        assert!(!lab.client.reaches(SERVER4, 22), "{connection}: the grant is consumed");
    }
}

#[test]
fn a_command_in_the_terminal_gets_ctrl_c_and_lines_printed_beside_it_begin_in_the_first_column() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &ACTIONS.replace("allow =", "uses = 1\nallow ="));
    let _daemon = Daemon::start(&lab.server, &site);
    // As ssh does, the command turns off what makes a line feed go back to the first column.
    let script = "stty -opost; trap \"exit 3\" INT; echo ready; sleep 20 & wait";
    let key = site.key_path("laptop");
    // Without `exec`, the shell of `script` gets Ctrl-C, too, and its exit code replaces the one of keep.
    let line = format!(
        "exec env --default-signal {} keep --key {} 10.77.0.1 open-ssh -- sh -c '{script}'",
        env!("CARGO_BIN_EXE_spa-knock"),
        key.display()
    );
    let plain = command(&site, &[]);
    let mut terminal = Command::new("script");
    terminal
        .args(["-qec", &line, "/dev/null"])
        .env_remove("SPA_KNOCK_KEY")
        .env("SHELL", "/bin/sh")
        .process_group(0);
    terminal.stdin(Stdio::piped()).stdout(fs::File::create(site.path("screen")).unwrap());
    for (name, value) in plain.get_envs() {
        value.map(|value| terminal.env(name, value));
    }
    let mut keep = Keep { child: lab.client.spawn(&mut terminal), site: &site, ended: false };
    let screen = || fs::read_to_string(site.path("screen")).unwrap();
    assert!(within(Duration::from_secs(20), || screen().contains("every 30s")), "{}", screen());
    let mut keyboard = keep.child.stdin.take().unwrap();
    keyboard.write_all(b"\x03").unwrap();
    assert_eq!(keep.code(), Some(3));
    let screen = screen();
    assert!(screen.starts_with("ready\n\rspa-knock: 10.77.0.1: open-ssh refused: "), "{screen:?}");
    assert!(screen.contains("; trying again every 30s\r\n"), "{screen:?}");
}

#[test]
fn a_knock_without_a_reply_delays_neither_a_new_address_nor_the_end_of_the_command() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let fifo = site.path("fifo");
    lab.client.run(&format!("mkfifo {}", fifo.display()));
    let script = format!("read line < {}", fifo.display());
    // A long timeout is meant for the port, and does not delay the retries.
    let args = ["--timeout", "60s", "10.77.0.1", "open-ssh", "--", "sh", "-c", &script];
    let keep = Keep::start(&lab, &site, &args);
    open_at(&lab, SERVER4, Duration::from_secs(10)).expect("the first knock opens the port");
    daemon.kill9();
    // At least one renewal has failed.
    thread::sleep(Duration::from_secs(6));
    assert!(!lab.client.reaches(SERVER4, 22));
    let mut daemon = Daemon::start(&lab.server, &site);
    let open = open_at(&lab, SERVER4, Duration::from_secs(20));
    assert!(open.is_some(), "a retry follows although the timeout is not over");
    daemon.kill9();
    // The next renewal waits for its reply.
    thread::sleep(Duration::from_millis(2_500));
    let mut daemon = Daemon::start(&lab.server, &site);
    lab.client.ip("addr del 10.77.0.2/24 dev eth0");
    lab.client.ip("addr add 10.77.0.3/24 dev eth0");
    let change = Instant::now();
    let open = open_at(&lab, SERVER4, Duration::from_secs(20)).expect("open again");
    println!("open again {:?} after a change, while a renewal waits for its reply", open - change);
    assert!(open - change < REOPENED);

    daemon.kill9();
    thread::sleep(Duration::from_secs(3));
    fs::write(&fifo, "end\n").unwrap();
    let end = Instant::now();
    assert_eq!(keep.code(), Some(0));
    println!("the end of the command is noticed after {:?}", end.elapsed());
    assert!(end.elapsed() < Duration::from_secs(1), "{:?}", end.elapsed());
}

#[test]
fn the_command_does_not_get_the_key() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", ACTIONS);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = fs::read_to_string(site.key_path("laptop")).unwrap();
    let secret = key.lines().find_map(|line| line.strip_prefix("secret: ")).unwrap().trim();

    let mut keep = command(&site, &["10.77.0.1", "open-ssh", "--", "sh", "-c", "echo ready; env; cat"]);
    let output = lab.client.output(keep.env("SPA_KNOCK_KEY", &key).stdout(Stdio::piped()));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.starts_with("ready\n") && text.contains("HOME="), "{output:?}");
    assert!(!text.contains("SPA_KNOCK_KEY") && !text.contains(secret));

    let mut keep =
        command(&site, &["--key", "-", "10.77.0.1", "open-ssh", "--", "sh", "-c", "echo ready; cat"]);
    let input = fs::File::open(site.key_path("laptop")).unwrap();
    let output = lab.client.output(keep.stdin(input).stdout(Stdio::piped()));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\n", "nothing of the key is left to read");
}
