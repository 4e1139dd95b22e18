//! The daemons of one tool, running in the server's namespace. Every process in that namespace belongs to the tool: their
//! CPU time and memory are summed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::lab::Lab;
use crate::peer::{Peer, Setup};
use crate::results::Process;

/// Time limit for a start. One with a thousand doors of knockd takes longer.
const START_MAX: Duration = Duration::from_secs(20);

/// A tool's daemons and files. Everything ends and is removed when this is dropped.
pub(crate) struct Server<'a> {
    pub(crate) peer: &'a dyn Peer,
    pub(crate) lab: &'a Lab,
    setup: Setup,
    dir: TempDir,
    children: Vec<Child>,
}

impl<'a> Server<'a> {
    /// Writes the configuration; starts nothing.
    pub(crate) fn new(peer: &'a dyn Peer, lab: &'a Lab, setup: Setup) -> Self {
        lab.clear_firewall();
        let dir = tempfile::Builder::new().prefix("peers-").tempdir().unwrap();
        // Daemons that are not root have files below it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        peer.configure(lab, dir.path(), setup);
        Self { peer, lab, setup, dir, children: Vec::new() }
    }

    /// The same, started.
    pub(crate) fn started(peer: &'a dyn Peer, lab: &'a Lab, setup: Setup) -> Self {
        let mut server = Self::new(peer, lab, setup);
        server.start().unwrap_or_else(|| panic!("{} does not start", peer.title()));
        server
    }

    /// Starts the daemons; returns the time until they were ready, if that is not too long.
    pub(crate) fn start(&mut self) -> Option<Duration> {
        let start = Instant::now();
        for line in self.peer.daemons(self.dir()) {
            let mut command = Command::new("unshare");
            // Nothing of a daemon is visible outside: it has a /run of its own.
            command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
            command.arg(format!("mount -t tmpfs tmpfs /run; {line}"));
            let log = fs::File::create(self.dir().join("start.log")).unwrap();
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            self.children.push(self.lab.server.spawn(&mut command));
            thread::sleep(Duration::from_millis(100));
        }
        while start.elapsed() < START_MAX {
            // knockd opens its socket before it compiles its filter, which takes long with many sequences.
            if self.peer.is_ready(self.lab, self.dir()) && self.is_waiting() {
                let time = start.elapsed();
                thread::sleep(Duration::from_millis(150));
                return Some(time);
            }
            if self.children.iter_mut().any(|child| child.try_wait().unwrap().is_some()) {
                panic!("{}: {}", self.peer.title(), self.log());
            }
            thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Whether no process has anything to do for 20 ms.
    fn is_waiting(&self) -> bool {
        (0..4).all(|_| {
            thread::sleep(Duration::from_millis(5));
            self.processes().into_iter().all(|process| {
                // The state is after the name in parentheses; see proc_pid_stat(5).
                let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('R'))
            })
        })
    }

    /// What the daemons have printed on standard error before they were ready.
    fn log(&self) -> String {
        fs::read_to_string(self.dir().join("start.log")).unwrap_or_default()
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The client's command that knocks.
    pub(crate) fn knock(&self, from: std::net::Ipv4Addr) -> Command {
        let mut command = self.peer.knock(self.dir(), self.setup, from);
        command.env("HOME", self.dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Ends the daemons with this signal, in reverse order, and waits for them. Other processes of theirs continue.
    pub(crate) fn end(&mut self, signal: Signal) {
        for child in self.children.iter_mut().rev() {
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
        for mut child in self.children.drain(..).rev() {
            let start = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if start.elapsed() > Duration::from_secs(5) {
                    let _ = child.kill();
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// Kills every process in the server's namespace.
    pub(crate) fn kill_all(&mut self) {
        for process in self.processes() {
            let _ = kill(process, Signal::SIGKILL);
        }
        for mut child in self.children.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// CPU time of all processes so far, in user mode and in the kernel.
    pub(crate) fn cpu(&self) -> Duration {
        self.processes().into_iter().map(cpu).sum()
    }

    /// The proportional set size of every process.
    pub(crate) fn memory(&self) -> Vec<Process> {
        let of = |process: Pid| {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            let pss_kib = line.split_whitespace().next()?.parse().ok()?;
            Some(Process { name: name.trim().to_owned(), pss_kib })
        };
        self.processes().into_iter().filter_map(of).collect()
    }

    /// All processes in the server's namespace, oldest first.
    fn processes(&self) -> Vec<Pid> {
        let server = self.lab.server.enter(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
        let is_there = |id: &i32| fs::read_link(format!("/proc/{id}/ns/net")).is_ok_and(|net| net == server);
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let mut ids: Vec<i32> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_there).collect();
        ids.sort_unstable();
        ids.into_iter().map(Pid::from_raw).collect()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.kill_all();
        self.lab.clear_firewall();
    }
}

/// utime and stime of a process. The scheduler's own sum of both is exact to the nanosecond, that of proc_pid_stat(5)
/// is rounded to hundredths of a second.
fn cpu(process: Pid) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().filter_map(Result::ok);
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
