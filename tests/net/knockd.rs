//! A daemon for knock sequences: this project's, or Debian's knockd for comparison.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use etherparse::PacketBuilder;
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{Daemon, Mounts, Namespace, SOON, Wire, within};

const LISTENING: &str = "starting up, listening on lan0";

/// A running daemon of either kind, on `lan0`, in its own folder; killed when dropped.
pub(crate) struct Knockd {
    folder: TempDir,
    child: Child,
}

impl Knockd {
    /// Starts this project's daemon. `DIR` in the config is replaced by its folder; its log is `DIR/log`.
    pub(crate) fn ours(server: &Namespace, doors: &str, options: &str) -> Self {
        Self::launch_ours(server, doors, options).started(SOON).expect("spa-knockd listens")
    }

    /// Starts Debian's daemon.
    pub(crate) fn theirs(server: &Namespace, doors: &str, options: &str) -> Self {
        Self::launch_theirs(server, doors, options).started(SOON).expect("knockd listens")
    }

    /// Like `ours`, without waiting until it listens.
    pub(crate) fn launch_ours(server: &Namespace, doors: &str, options: &str) -> Self {
        Self::launch_program(server, Command::new(Daemon::PROGRAM), doors, options)
    }

    /// Like `ours`, in a mount namespace.
    pub(crate) fn ours_in(mounts: &Mounts, server: &Namespace, doors: &str, options: &str) -> Self {
        let command = enter(mounts, Daemon::PROGRAM);
        Self::launch_program(server, command, doors, options).started(SOON).expect("spa-knockd listens")
    }

    /// Like `theirs`, in a mount namespace.
    pub(crate) fn theirs_in(mounts: &Mounts, server: &Namespace, doors: &str, options: &str) -> Self {
        let command = enter(mounts, "knockd");
        Self::launch(server, folder(), doors, options, command).started(SOON).expect("knockd listens")
    }

    fn launch_program(server: &Namespace, mut command: Command, doors: &str, options: &str) -> Self {
        let folder = folder();
        command.arg("knockd").arg("--state-dir").arg(folder.path().join("state"));
        Self::launch(server, folder, doors, options, command)
    }

    /// Like `theirs`, without waiting until it listens.
    pub(crate) fn launch_theirs(server: &Namespace, doors: &str, options: &str) -> Self {
        Self::launch(server, folder(), doors, options, Command::new("knockd"))
    }

    fn launch(server: &Namespace, folder: TempDir, doors: &str, options: &str, mut command: Command) -> Self {
        let (path, text) =
            (folder.path().join("knockd.conf"), format!("[options]\nlogfile = DIR/log\n{doors}"));
        fs::write(&path, text.replace("DIR", folder.path().to_str().unwrap())).unwrap();
        command.arg("-c").arg(path).args(["-i", "lan0"]).args(options.split_whitespace());
        let stderr = fs::File::create(folder.path().join("stderr")).unwrap();
        let child = server.spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr));
        Self { folder, child }
    }

    /// Waits until it logs that it listens. Returns `None` if it does not within this time.
    pub(crate) fn started(self, limit: Duration) -> Option<Self> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if self.log().contains(LISTENING) {
                return Some(self);
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }

    /// Path of a file in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Number of times that this text is in the log.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// The lines that its commands have written to `DIR/ran`.
    pub(crate) fn ran(&self) -> Vec<String> {
        fs::read_to_string(self.path("ran")).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The process id of our daemon's watcher.
    pub(crate) fn watcher(&self) -> Pid {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        Pid::from_raw(children.split_whitespace().next().expect("a watcher").parse().unwrap())
    }

    /// The process id of Debian's daemon.
    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }
}

impl Drop for Knockd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let stderr = fs::read_to_string(self.path("stderr")).unwrap_or_default();
            eprintln!("log:\n{}\nstderr:\n{stderr}", self.log());
        }
    }
}

fn enter(mounts: &Mounts, program: &str) -> Command {
    let [nsenter, entrance] = mounts.nsenter();
    let mut command = Command::new(nsenter);
    command.arg(entrance).arg(program);
    command
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap()
}

/// Sends first knocks to port 7000 of the server, `rate` per second and each from another address, until `stop` or for
/// one minute. Returns how many were sent.
fn flood_of_first_knocks(wire: &mut Wire, rate: u64, stop: &AtomicBool) -> u64 {
    let builder = PacketBuilder::ethernet2(wire.mac, wire.peer).ipv4([12, 0, 0, 0], [10, 77, 0, 1], 64);
    let mut frame = Vec::new();
    builder.tcp(40_000, 7000, 1, 1024).syn().write(&mut frame, &[]).unwrap();
    let (start, mut sent) = (Instant::now(), 0);
    while !stop.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(1));
        let due = u64::try_from(start.elapsed().as_micros()).unwrap() * rate / 1_000_000;
        while sent < due {
            sent += 1;
            // The last three bytes of the source address. A capture ignores checksums, and the host answers none of
            // these.
            frame[27..30].copy_from_slice(&sent.to_be_bytes()[5..]);
            wire.send(&frame);
        }
    }
    sent
}

/// Knocks `knocks` times at intervals of `every` during a flood. Returns how many knocks opened a port, and how many
/// packets of the flood were sent per second.
pub(crate) fn knock_in_a_flood(
    wire: &mut Wire,
    rate: u64,
    knocks: usize,
    every: Duration,
    knock: impl Fn(),
    opened: impl Fn() -> usize,
) -> (usize, u64) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let start = Instant::now();
        let flooding = scope.spawn(|| flood_of_first_knocks(wire, rate, &stop));
        thread::sleep(Duration::from_secs(1));
        let mut opening = 0;
        for _ in 0..knocks {
            let (next, before) = (Instant::now() + every, opened());
            knock();
            opening += usize::from(within(every, || opened() > before));
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        stop.store(true, Ordering::SeqCst);
        let sent = flooding.join().unwrap();
        (opening, sent * 1_000 / u64::try_from(start.elapsed().as_millis()).unwrap())
    })
}
