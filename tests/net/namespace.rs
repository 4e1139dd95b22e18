//! One network namespace, held by a descriptor.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. Dropping it lets go of it; the kernel removes it with its last socket and process.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A namespace with nothing in it but the loopback interface, up.
    pub(crate) fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace");
            // Addresses are usable at once.
            for which in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0").unwrap();
            }
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let namespace = Self(thread::spawn(make).join().expect("a namespace"));
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay in it, and so do processes.
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

    /// Runs a process in the namespace to its end.
    pub(crate) fn output(&self, command: &mut Command) -> Output {
        self.enter(|| command.output()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs a line of words, without a shell, and returns what it printed; it must succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let output = self.output(limited(words.next().expect("a program")).args(words));
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `ip` with these words.
    pub(crate) fn ip(&self, words: &str) {
        self.run(&format!("ip {words}"));
    }

    /// `nft` with this line, if it succeeds.
    pub(crate) fn try_nft(&self, words: &str) -> Option<String> {
        let output = self.output(limited("nft").args(words.split_whitespace()));
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `nft` with this line.
    pub(crate) fn nft(&self, words: &str) -> String {
        self.run(&format!("nft {words}"))
    }

    /// Sets a kernel parameter below `/proc/sys/net`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| std::fs::write(format!("/proc/sys/net/{name}"), value)).expect(name);
    }

    /// A cable to `peer`: an interface here and one there, each up and with its addresses.
    pub(crate) fn cable(&self, here: (&str, &[&str]), peer: &Self, there: (&str, &[&str])) {
        // `ip` takes a path to a namespace where it takes a name.
        let path = format!("/proc/{}/fd/{}", std::process::id(), peer.0.as_raw_fd());
        self.ip(&format!("link add {} type veth peer name {} netns {path}", here.0, there.0));
        for (namespace, (name, addresses)) in [(self, here), (peer, there)] {
            namespace.ip(&format!("link set {name} up"));
            for address in addresses {
                namespace.ip(&format!("addr add {address} dev {name}"));
            }
        }
    }
}

impl Drop for Namespace {
    /// The lock that a daemon took for the gate in here is of no use to the next namespace of this number.
    fn drop(&mut self) {
        let folder = Path::new("/run/spa-knock");
        if let Ok(metadata) = self.0.metadata() {
            let _ = std::fs::remove_file(folder.join(format!("gate-{}.lock", metadata.ino())));
            // Only when it is empty.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

/// A command that is ended after 30 s, so that no test waits for ever.
pub(crate) fn limited(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "30", program]);
    command
}
