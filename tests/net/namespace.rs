//! A network namespace, held by a descriptor.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A network namespace. Dropping it closes the descriptor; the kernel removes the namespace with its last socket and
/// process.
pub(crate) struct Namespace(File);

impl Namespace {
    /// Creates a namespace that has only the loopback interface, which is up.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            // Without duplicate address detection, addresses are usable immediately.
            for which in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").unwrap();
            }
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = Self(thread::spawn(make).join().expect("a namespace"));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a thread inside the namespace. Sockets and processes that it creates stay in the namespace.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Starts a process in the namespace.
    pub(crate) fn spawn(&self, command: &mut Command) -> Child {
        self.enter(|| command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs a process in the namespace and waits for its end.
    pub(crate) fn output(&self, command: &mut Command) -> Output {
        self.enter(|| command.output()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs a command line without a shell, which must succeed, and returns its standard output.
    pub(crate) fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = self.output(limited(words.next().expect("a program")).args(words));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs `ip` with these arguments.
    pub(crate) fn ip(&self, args: &str) {
        self.run(&format!("ip {args}"));
    }

    /// Runs `nft` with these arguments and returns its standard output if it succeeds.
    pub(crate) fn try_nft(&self, args: &str) -> Option<String> {
        let output = self.output(limited("nft").args(args.split_whitespace()));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `nft` with these arguments, which must succeed, and returns its standard output.
    pub(crate) fn nft(&self, args: &str) -> String {
        self.run(&format!("nft {args}"))
    }

    /// Sets a kernel parameter below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| std::fs::write(format!("/proc/sys/net/{name}"), value)).expect(name);
    }

    /// The program and argument that run the command after them in this namespace.
    pub(crate) fn nsenter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net={}", self.path())]
    }

    /// A path of the namespace. The descriptor belongs to this process, so it is valid as long as `self` exists.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Adds a cable to `peer`: an interface on each side, up and with its addresses.
    pub(crate) fn cable(&self, here: (&str, &[&str]), peer: &Self, there: (&str, &[&str])) {
        // Where `ip` expects the name of a namespace, it accepts a path.
        self.ip(&format!("link add {} type veth peer name {} netns {}", here.0, there.0, peer.path()));
        for (namespace, (name, addresses)) in [(self, here), (peer, there)] {
            namespace.ip(&format!("link set {name} up"));
            for address in addresses {
                namespace.ip(&format!("addr add {address} dev {name}"));
            }
        }
    }
}

impl Drop for Namespace {
    /// Removes the lock file that a daemon created for the gate of this namespace; the inode number in its name may be
    /// used again.
    fn drop(&mut self) {
        let folder = Path::new("/run/spa-knock");
        if let Ok(metadata) = self.0.metadata() {
            let _ = std::fs::remove_file(folder.join(format!("gate-{}.lock", metadata.ino())));
            // Succeeds only if it is empty.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// The process ids of a process's children, oldest first.
pub(crate) fn children_of(process: Pid) -> Vec<Pid> {
    let path = format!("/proc/{process}/task/{process}/children");
    let children = std::fs::read_to_string(path).unwrap_or_default();
    children.split_whitespace().map(|child| Pid::from_raw(child.parse().unwrap())).collect()
}

/// Sends a signal to what a command of [`limited`] runs. `timeout` would pass it on, but not if it is signaled before it has
/// noted what it has started: it then ends alone.
pub(crate) fn signal_limited(timeout: &Child, signal: Signal) {
    let timeout = Pid::from_raw(timeout.id().try_into().unwrap());
    for program in children_of(timeout) {
        // An error means that it has ended.
        let _ = kill(program, signal);
    }
}

/// A command that is killed after 30 s, so that no test waits forever.
pub(crate) fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30", program]);
    command
}
