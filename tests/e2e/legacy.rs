//! Knock sequences end to end: log lines, commands, reloads, and stop commands that run on time even after a kill.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::net::{
    CLIENT4, CLIENT6, Daemon, Lab, SERVER4, SERVER6, SOON, Wire, full, knock_in_a_flood, limited, within,
};

/// `spa-knockd knockd` in the lab's server; killed when dropped.
struct Knockd<'a> {
    lab: &'a Lab,
    scratch: TempDir,
    child: Option<Child>,
}

impl<'a> Knockd<'a> {
    /// Starts the daemon with these doors. `DIR` stands for a scratch directory, in which `log` is the log.
    fn start(lab: &'a Lab, doors: &str) -> Self {
        let scratch = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let mut knockd = Self { lab, scratch, child: None };
        knockd.write_config(doors);
        knockd.launch(&[]);
        knockd
    }

    fn write_config(&self, doors: &str) {
        let text = format!("[options]\nlogfile = DIR/log\ninterface = lan0\n{doors}");
        fs::write(self.path("knockd.conf"), text.replace("DIR", self.scratch.path().to_str().unwrap()))
            .unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Daemon::PROGRAM);
        command.arg("knockd").arg("-c").arg(self.path("knockd.conf"));
        command.arg("--state-dir").arg(self.path("state")).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts the daemon and waits until it listens.
    fn launch(&mut self, args: &[&str]) {
        let starts = self.count("starting up");
        let child = self.lab.server.spawn(&mut self.command(args));
        self.child = Some(child);
        self.wait_for("starting up, listening on lan0", starts + 1);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The log without its times and empty lines.
    fn lines(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| !line.is_empty());
        lines.map(|line| line.split_once("] ").unwrap().1.to_owned()).collect()
    }

    fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    fn wait_for(&self, text: &str, times: usize) {
        assert!(within(SOON, || self.count(text) >= times), "no {text:?} in\n{}", self.log());
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// Sends a signal and returns the exit code.
    fn stop(&mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.take().unwrap().wait().unwrap().code()
    }

    fn ran(&self) -> Vec<String> {
        fs::read_to_string(self.path("ran")).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Knockd<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            println!("{}", self.log());
        }
    }
}

fn knock(lab: &Lab, server: IpAddr, ports: &[&str]) -> Output {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args(["legacy", &server.to_string()]).args(ports);
    lab.client.output(&mut command)
}

const SSH: &str = "[ssh]\nsequence = 7000,8000:udp,9000\ntcpflags = syn\nseq_timeout = 5\n";

#[test]
fn a_sequence_runs_the_command_for_its_source_over_both_ip_versions() {
    let Some(lab) = Lab::new() else { return };
    let mut knockd = Knockd::start(&lab, &format!("{SSH}command = echo open %IP% >> DIR/ran; exit 3\n"));
    let sequence = ["7000", "8000:udp", "9000"];
    for (client, server) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
        assert!(knock(&lab, server, &sequence).status.success());
        knockd.wait_for("status code (3)", if client == CLIENT4 { 1 } else { 2 });
    }
    assert_eq!(knockd.ran(), [format!("open {CLIENT4}"), format!("open {CLIENT6}")]);
    assert!(knock(&lab, SERVER4, &["7000", "9000", "8000:udp"]).status.success());
    let lines_of = |client: IpAddr| {
        let ran = knockd.path("ran").display().to_string();
        [
            format!("{client}: ssh: Stage 1"),
            format!("{client}: ssh: Stage 2"),
            format!("{client}: ssh: Stage 3"),
            format!("{client}: ssh: OPEN SESAME"),
            format!("ssh: running command: echo open {client} >> {ran}; exit 3"),
            "ssh: command returned non-zero status code (3)".to_owned(),
        ]
    };
    knockd.wait_for("Stage 1", 3);
    let mut expected = vec!["starting up, listening on lan0".to_owned()];
    expected.extend([lines_of(CLIENT4), lines_of(CLIENT6)].concat());
    expected.push(format!("{CLIENT4}: ssh: Stage 1"));
    assert_eq!(knockd.lines(), expected);
    assert!(knockd.log().contains("exit 3\n\n["), "a blank line follows a command");
    assert_eq!(knockd.stop(Signal::SIGTERM), Some(15));
    assert!(knockd.log().ends_with("shutting down\n"));
}

#[test]
fn a_timeout_is_logged_when_it_happens() {
    let Some(lab) = Lab::new() else { return };
    let mut knockd = Knockd::start(&lab, "[ssh]\nsequence = 7000,8000\ntimeout = 1\n");
    let start = Instant::now();
    knock(&lab, SERVER4, &["7000"]);
    knockd.wait_for("10.77.0.2: ssh: sequence timeout (stage 1)\n\n", 1);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(knockd.stop(Signal::SIGINT), Some(2));
}

#[test]
fn an_open_door_is_closed_on_time_and_only_once_after_a_kill() {
    let Some(lab) = Lab::new() else { return };
    let door =
        "command = echo open %IP% >> DIR/ran\ncmd_timeout = 3\nstop_command = echo close %IP% >> DIR/ran\n";
    let mut knockd = Knockd::start(&lab, &format!("{SSH}{door}"));
    let sequence = ["7000", "8000:udp", "9000"];
    let start = Instant::now();
    for _ in 0..2 {
        knock(&lab, SERVER4, &sequence);
    }
    assert!(within(SOON, || knockd.ran().len() == 2));
    // Wait until the daemon has noticed that both commands have exited.
    thread::sleep(Duration::from_millis(200));
    knockd.stop(Signal::SIGKILL);
    thread::sleep(Duration::from_millis(300));
    knockd.launch(&[]);
    assert_eq!(knockd.ran().len(), 2, "not yet");
    assert!(within(SOON, || knockd.ran().len() == 4), "{:?}", knockd.ran());
    let closed = start.elapsed();
    assert!((Duration::from_millis(2_900)..Duration::from_millis(4_500)).contains(&closed), "{closed:?}");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(
        knockd.ran()[2..],
        ["close 10.77.0.2", "close 10.77.0.2"],
        "a door that opens twice is closed twice"
    );
    assert_eq!(knockd.count("10.77.0.2: ssh: command timeout"), 2);
    knockd.stop(Signal::SIGTERM);
}

#[test]
fn a_sighup_applies_a_valid_config_and_an_invalid_one_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let mut knockd = Knockd::start(&lab, "[a]\nsequence = 7000\n");
    knockd.write_config("[b]\nsequence = 7001:x\n");
    knockd.signal(Signal::SIGHUP);
    knockd.wait_for("unknown protocol", 1);
    knock(&lab, SERVER4, &["7000"]);
    knockd.wait_for("a: OPEN SESAME", 1);
    knockd.write_config("[b]\nsequence = 7001\n");
    fs::rename(knockd.path("log"), knockd.path("log.1")).unwrap();
    knockd.signal(Signal::SIGHUP);
    assert!(within(SOON, || knockd.path("log").exists()));
    knock(&lab, SERVER4, &["7000", "7001"]);
    knockd.wait_for("b: OPEN SESAME", 1);
    assert_eq!(knockd.count("a: OPEN"), 0);
    knockd.stop(Signal::SIGTERM);
}

#[test]
fn a_sighup_without_changes_keeps_an_attempt_at_a_one_time_sequence() {
    let Some(lab) = Lab::new() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let list = scratch.path().join("list");
    fs::write(&list, " 5000,6000\n").unwrap();
    let mut knockd = Knockd::start(&lab, &format!("[once]\none_time_sequences = {}\n", list.display()));
    knock(&lab, SERVER4, &["5000"]);
    knockd.wait_for("once: Stage 1", 1);
    fs::rename(knockd.path("log"), knockd.path("log.1")).unwrap();
    knockd.signal(Signal::SIGHUP);
    assert!(within(SOON, || knockd.path("log").exists()));
    knock(&lab, SERVER4, &["6000"]);
    knockd.wait_for("once: OPEN SESAME", 1);
    knockd.stop(Signal::SIGTERM);
}

#[test]
fn one_time_sequences_open_once_each_over_both_ip_versions() {
    let Some(lab) = Lab::new() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let list = scratch.path().join("list");
    fs::write(&list, " 5000,6000\n 5001,6001\n").unwrap();
    let doors = format!("[once]\none_time_sequences = {}\n[a]\nsequence = 7000\n", list.display());
    let mut knockd = Knockd::start(&lab, &doors);
    for (server, sequence) in [(SERVER4, ["5000", "6000"]), (SERVER6, ["5001", "6001"])] {
        for _ in 0..2 {
            knock(&lab, server, &sequence);
        }
    }
    knock(&lab, SERVER4, &["7000"]);
    knockd.wait_for("a: OPEN SESAME", 1);
    assert_eq!(knockd.count("once: OPEN SESAME"), 2);
    assert_eq!(knockd.count("no more sequences left in the one time sequences file for door once"), 1);
    assert_eq!(fs::read_to_string(&list).unwrap(), "#5000,6000\n#5001,6001\n");
    knockd.stop(Signal::SIGTERM);
}

#[test]
fn a_daemon_in_the_background_has_a_pid_file_until_it_stops() {
    let Some(lab) = Lab::new() else { return };
    let mut knockd = Knockd::start(&lab, "[a]\nsequence = 7000\n");
    knockd.stop(Signal::SIGTERM);
    let pid_file = knockd.path("pid");
    let mut command = knockd.command(&["-d", "-p", pid_file.to_str().unwrap()]);
    let status = lab.server.spawn(&mut command).wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let pid: i32 = fs::read_to_string(&pid_file).unwrap().trim_end().parse().unwrap();
    knock(&lab, SERVER4, &["7000"]);
    knockd.wait_for("a: OPEN SESAME", 1);
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert!(within(SOON, || !pid_file.exists()));
}

#[test]
fn a_daemon_that_cannot_start_exits_with_1_and_prints_the_usage_for_a_config_error() {
    let Some(lab) = Lab::new() else { return };
    let mut knockd = Knockd::start(&lab, "[a]\nsequence = 7000\n");
    knockd.stop(Signal::SIGTERM);
    for (config, args, reason) in [
        ("[a]\nx\n", &[][..], "config: line 5: syntax error\n"),
        ("[a]\nsequence=1\n", &["-i", "nothing0"], "interface nothing0: no such interface"),
    ] {
        knockd.write_config(config);
        let output = lab.server.output(knockd.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()));
        assert_eq!(output.status.code(), Some(1), "{config}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains(reason), "{errors}");
        let usage = String::from_utf8_lossy(&output.stdout);
        assert_eq!(usage.starts_with("usage: knockd [options]\n"), args.is_empty());
    }
}

/// First knocks per second, each from another address. A debug build is slower.
const FLOOD: u64 = if cfg!(debug_assertions) { 5_000 } else { 20_000 };

/// A field of /proc/PID/status, in KiB.
fn status(process: Pid, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_flood_of_first_knocks_locks_no_one_out_and_fills_neither_memory_nor_log() {
    let Some(lab) = Lab::new() else { return };
    let (knocks, every) = (if full() { 20 } else { 5 }, Duration::from_millis(1_500));
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let sequence = ["-d", "100", "7000", "8000:udp", "9000"];
    let mut flood = |knockd: &crate::net::Knockd, process: Pid| {
        // Knock once before measuring, so that the memory of the capture's ring is included.
        knock(&lab, SERVER4, &sequence);
        assert!(within(SOON, || knockd.count("OPEN SESAME") == 1));
        let before = status(process, "VmRSS");
        let opened = || knockd.count(&format!("{CLIENT4}: ssh: OPEN SESAME"));
        let knock = || drop(knock(&lab, SERVER4, &sequence));
        let (through, others) = knock_in_a_flood(&mut wire, FLOOD, knocks, every, knock, opened);
        (through, others, status(process, "VmHWM").saturating_sub(before))
    };
    let ours = crate::net::Knockd::ours(&lab.server, SSH, "");
    let start = Instant::now();
    let (through, others, grown) = flood(&ours, ours.watcher());
    let seconds = start.elapsed().as_secs() + 1;
    let lines = u64::try_from(ours.log().lines().count()).unwrap();
    drop(ours);
    println!(
        "{through} of {knocks} knocks accepted, {others} others per second, {grown} KiB more, {lines} lines"
    );
    assert_eq!(through, knocks);
    assert!(grown <= 2_048, "{grown} KiB more");
    // A blank line follows a timeout.
    assert!(lines < 2 * 210 * (seconds + 2), "{lines} lines in {seconds} s");
    if full() {
        let theirs = crate::net::Knockd::theirs(&lab.server, SSH, "");
        let (through, others, grown) = flood(&theirs, theirs.id());
        println!(
            "knockd: {through} of {knocks} knocks accepted, {others} others per second, {grown} KiB more"
        );
    }
}
