//! A compromised watcher, `tests/hostile`: inside the sandbox it can do what a watcher must do, and nothing else of
//! what it tries. Each part of the sandbox is also tested alone, and all trials run without a sandbox too. This shows
//! that the sandbox is the reason why they fail.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::libc::{SIGSEGV, SIGSYS};
use spa_knock::os::net::seqpacket::{Channel, ReceiveResult};
use spa_knock::os::net::udp::{ReceiveMode, UdpPort};
use tempfile::TempDir;

use crate::net::{CLIENT4, KNOCK_PORT, Lab, SERVER4};

/// The operations that a watcher must still be able to do, from `tests/hostile/src/works.rs`.
const WORKS: [&str; 7] = [
    "an order is received",
    "a report is sent",
    "a datagram is captured",
    "captured packets are counted",
    "the clocks run",
    "memory grows and shrinks",
    "random numbers are available",
];
/// Trials that Landlock denies only since this version of its ABI, landlock(7).
const NEWER_IN_LANDLOCK: [(u32, &str); 5] = [
    (3, "truncate a file"),
    (4, "bind a TCP port"),
    (4, "connect over TCP"),
    (6, "connect to an abstract Unix socket"),
    (6, "signal a process of the same user"),
];
/// Trials that the lock on the capture filter denies even to root.
const LOCKED: [&str; 4] =
    ["detach the filter", "attach another filter", "attach a BPF program", "unlock the filter"];
/// Trials that the rules of a container or kernel may deny to root even without a sandbox.
const DENIED_ELSEWHERE: [&str; 21] = [
    "add_key",
    "all I/O ports",
    "be traced",
    "bpf",
    "finit_module",
    "init_module",
    "I/O ports",
    "io_uring_enter",
    "io_uring_setup",
    "kexec_load",
    "keyctl",
    "open_by_handle_at",
    "perf_event_open",
    "prctl: the memory map",
    "ptrace a process of the same user",
    "ptrace the keeper",
    "request_key",
    "settimeofday",
    "the kernel's log",
    "unshare a user namespace",
    "userfaultfd",
];

#[test]
fn a_compromised_watcher_can_do_nothing_else() {
    for source in ["lan0", "any", "socket", "fwknop"] {
        let Some(report) = Report::of("all", source) else { return };
        report.works();
        report.denies_everything();
    }
}

#[test]
fn a_compromised_watcher_can_do_nothing_else_without_landlock() {
    for source in ["lan0", "socket"] {
        let Some(report) = Report::of("calls", source) else { return };
        report.works();
        report.denies_everything();
    }
}

#[test]
fn files_sockets_and_signals_are_denied_by_landlock_alone() {
    let Some(files) = Report::of("files", "lan0") else { return };
    assert!(files.tried().len() >= 20, "{:?}", files.lines);
    let Some(abi) = files.landlock() else {
        println!("skipped: this kernel has no Landlock");
        return;
    };
    let newer = NEWER_IN_LANDLOCK.into_iter().filter(|(since, _)| abi < *since);
    let newer: BTreeSet<_> = newer.map(|(_, name)| name).collect();
    assert_eq!(BTreeSet::from_iter(files.denied()), &files.tried() - &newer);
    let Some(user) = Report::of("user", "lan0") else { return };
    assert_eq!(user.denied(), [""; 0], "file permissions deny nothing");
    assert_eq!(user.tried(), files.tried());
}

#[test]
fn new_processes_descriptors_and_much_memory_are_denied_by_limits_alone() {
    let Some(limits) = Report::of("limits", "lan0") else { return };
    assert!(limits.tried().len() >= 15, "{:?}", limits.lines);
    assert_eq!(limits.allowed(), [""; 0]);
}

#[test]
fn without_a_sandbox_only_changes_to_the_capture_filter_are_denied() {
    for source in ["lan0", "socket"] {
        let Some(unconfined) = Report::of("none", source) else { return };
        assert!(unconfined.tried().len() >= 150, "{}", unconfined.tried().len());
        let denied: Vec<_> =
            unconfined.denied().into_iter().filter(|name| !DENIED_ELSEWHERE.contains(name)).collect();
        assert_eq!(denied, if source == "lan0" { &LOCKED[..] } else { &[] });
        let Some(confined) = Report::of("all", source) else { return };
        assert_eq!(unconfined.tried().difference(&confined.tried()).collect::<Vec<_>>(), [&""; 0]);
    }
}

#[test]
fn a_system_call_of_another_architecture_kills_the_watcher() {
    let Some(report) = Report::of("all, with a foreign call", "lan0") else { return };
    assert_eq!(report.allowed(), [""; 0]);
    // A kernel without support for 32-bit programs has no entry for their calls.
    let killed = report.status.signal().is_some_and(|signal| [SIGSYS, SIGSEGV].contains(&signal));
    assert!(killed || cfg!(not(target_arch = "x86_64")), "{report:?}");
}

#[test]
fn ten_thousand_clients_and_all_tags_fit_into_half_of_the_watchers_memory() {
    let Some(report) = Report::of("all, with many clients", "lan0") else { return };
    assert!(
        report.done && report.lines.contains(&"works 10,000 clients and 65,536 tags fit".to_owned()),
        "{report:#?}"
    );
    let peak = report.state.lines().find_map(|line| line.strip_prefix("VmPeak:")?.split_whitespace().next());
    let peak_kib: u64 = peak.unwrap().parse().unwrap();
    assert!(peak_kib < 64 << 10, "{peak_kib} KiB");
}

#[test]
fn a_watcher_that_is_not_started_as_root_keeps_no_capability() {
    let Some(lab) = Lab::new() else { return };
    // A folder that this user can access.
    let folder = open_folder();
    let copy = folder.path().join("hostile");
    fs::copy(program(), &copy).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={}", nobody.uid), format!("--regid={}", nobody.gid)]);
    command.args(["--clear-groups", "--inh-caps=+net_raw,+net_admin", "--ambient-caps=+net_raw,+net_admin"]);
    command.arg(copy);
    let report = Report::of_command(&lab, command, "all", "lan0");
    report.works();
    report.denies_everything();
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert!(report.state.contains(&format!("{set}:\t0000000000000000\n")), "{}", report.state);
    }
}

/// The output of the watcher, and its state as seen by the keeper.
#[derive(Debug)]
struct Report {
    lines: Vec<String>,
    /// Whether it reached the end of its trials.
    done: bool,
    /// Its /proc/PID/status inside the sandbox.
    state: String,
    status: ExitStatus,
    /// Whether the keeper received its report.
    reported: bool,
}

impl Report {
    /// Runs the watcher with these parts of the sandbox, on this interface or `socket`. Returns `None` if the user
    /// cannot create namespaces.
    fn of(mode: &str, source: &str) -> Option<Self> {
        Lab::new().map(|lab| Self::of_command(&lab, Command::new(program()), mode, source))
    }

    /// Runs the watcher with this command, in the role of its keeper.
    fn of_command(lab: &Lab, mut command: Command, mode: &str, source: &str) -> Self {
        let scratch = open_folder();
        for file in ["file", "remove", "rename"] {
            fs::write(scratch.path().join(file), "content").unwrap();
            fs::set_permissions(scratch.path().join(file), fs::Permissions::from_mode(0o666)).unwrap();
        }
        fs::create_dir(scratch.path().join("folder")).unwrap();

        let (channel, theirs) = Channel::pair().unwrap();
        let udp = lab.server.enter(|| UdpPort::bind(KNOCK_PORT, ReceiveMode::Received)).unwrap();
        let stdout = if source == "socket" { udp.share().unwrap().into() } else { Stdio::null() };
        command.args([mode, source, &KNOCK_PORT.to_string()]).arg(scratch.path());
        command.stdin(theirs).stdout(stdout).stderr(Stdio::piped());
        let mut child = lab.server.spawn(&mut command);
        // It holds the child's ends of the channel and the socket.
        drop(command);

        channel.send(b"order").unwrap();
        let (lines, done) = Self::read(lab, &mut child);
        let state = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let mut reported = false;
        let mut message = [0; 512];
        while let Ok(ReceiveResult::Message(length)) = channel.try_recv(&mut message) {
            reported |= &message[..length] == b"report";
        }
        drop(channel);
        Self { lines, done, state, status: child.wait().unwrap(), reported }
    }

    /// Reads its lines until it is done or exits; the flag is true if it is done. Sends the datagram that it waits for.
    fn read(lab: &Lab, child: &mut Child) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
            match line.as_str() {
                "watching" => {
                    // The length of the shortest knock.
                    lab.client.udp(CLIENT4).send_to(&[0; 228], (SERVER4, KNOCK_PORT)).unwrap();
                }
                "done" => return (lines, true),
                _ => lines.push(line),
            }
        }
        (lines, false)
    }

    fn works(&self) {
        assert_eq!(self.names("works "), WORKS, "{:#?}", self.lines);
        assert!(self.reported, "its report is received");
    }

    fn denies_everything(&self) {
        assert_eq!(self.allowed(), [""; 0]);
        assert!(self.tried().len() >= 150, "{}", self.tried().len());
        for line in self.lines.iter().filter(|line| line.starts_with("denied ")) {
            // The sandbox must be the reason, except for memory, which is allowed up to its limit.
            let memory = line.contains("byte") && line.ends_with(" ENOMEM");
            assert!(line.ends_with(" EPERM") || memory, "{line}");
        }
        assert!(self.lines.last().is_some_and(|line| line.contains(" other calls by number EPERM")));
    }

    fn allowed(&self) -> Vec<&str> {
        self.lines
            .iter()
            .filter(|l| l.starts_with("ALLOWED ") || l.starts_with("BROKEN "))
            .map(String::as_str)
            .collect()
    }

    /// The names of the denied trials, with any error.
    fn denied(&self) -> Vec<&str> {
        self.names("denied ").into_iter().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect()
    }

    /// The names of all trials.
    fn tried(&self) -> BTreeSet<&str> {
        assert!(self.done && self.status.success(), "{self:#?}");
        let allowed = self.names("ALLOWED ").into_iter();
        allowed.map(|line| line.split(" (errno").next().unwrap()).chain(self.denied()).collect()
    }

    /// The version of Landlock's ABI, or `None` if the kernel has no Landlock.
    fn landlock(&self) -> Option<u32> {
        self.names("landlock ").first().expect("a line about Landlock").parse().ok()
    }

    fn names(&self, prefix: &str) -> Vec<&str> {
        self.lines.iter().filter_map(|line| line.strip_prefix(prefix)).collect()
    }
}

/// A temporary folder that all users can write to.
fn open_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// The path of the program, which scripts/test builds. Panics if it is older than its source.
pub(crate) fn program() -> PathBuf {
    const BUILD: &str =
        "hint: cargo build --locked --manifest-path tests/hostile/Cargo.toml --target-dir target";
    let beside = Path::new(env!("CARGO_BIN_EXE_spa-knockd")).with_file_name("hostile");
    let path = std::env::var_os("SPA_KNOCK_HOSTILE").map_or(beside, PathBuf::from);
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let built = changed(&path).unwrap_or_else(|error| panic!("{}: {error}\n{BUILD}", path.display()));
    for folder in
        ["src/os", "src/capture", "tests/hostile/src", "tests/hostile/src/bin", "tests/hostile/src/trials"]
    {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
            let source = entry.unwrap().path();
            let older = source.is_file() && built < changed(&source).unwrap();
            assert!(!older, "{}: older than {}\n{BUILD}", path.display(), source.display());
        }
    }
    path
}
