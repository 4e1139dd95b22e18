//! A running daemon.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Namespace, SOON, Site, children_of, within};

/// `spa-knockd run`; killed when dropped. If the test fails, the daemon's log is printed.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Daemon {
    /// Path of the program.
    pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_spa-knockd");

    /// Starts the daemon and waits until it logs that it is ready.
    pub(crate) fn start(namespace: &Namespace, site: &Site) -> Self {
        Self::start_command(namespace, Self::command(site))
    }

    /// Like `start`, with the test's own command that runs the daemon.
    pub(crate) fn start_command(namespace: &Namespace, command: Command) -> Self {
        let mut daemon = Self::launch(namespace, command);
        let running = |daemon: &mut Self| daemon.child.try_wait().unwrap().is_none();
        let ready = within(SOON, || daemon.has_logged("ready") || !running(&mut daemon));
        assert!(ready && running(&mut daemon), "the daemon is not ready");
        // A knock that is stamped in the same millisecond as the start is not accepted.
        thread::sleep(Duration::from_millis(5));
        daemon
    }

    /// The command that runs the daemon.
    pub(crate) fn command(site: &Site) -> Command {
        let mut command = Command::new(Self::PROGRAM);
        command.args(Self::arguments(site));
        command
    }

    /// The daemon's arguments.
    pub(crate) fn arguments(site: &Site) -> [OsString; 3] {
        ["run".into(), "-c".into(), site.path("spa-knockd.toml").into()]
    }

    /// Starts a command that runs the daemon, without waiting until it is ready.
    pub(crate) fn launch(namespace: &Namespace, mut command: Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = namespace.spawn(quiet);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&log);
        thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                copy.lock().unwrap().append(&mut line);
            }
        });
        Self { child, log }
    }

    /// Everything that it has written to standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    /// The same, as unchanged bytes.
    pub(crate) fn log_bytes(&self) -> Vec<u8> {
        self.log.lock().unwrap().clone()
    }

    /// Whether its log contains this word.
    pub(crate) fn has_logged(&self, word: &str) -> bool {
        self.log().split(|c: char| !c.is_alphanumeric()).any(|logged| logged == word)
    }

    /// Whether it has exited.
    pub(crate) fn has_exited(&mut self) -> bool {
        self.exit_status().is_some()
    }

    /// Its exit status, if it has exited.
    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The daemon's process id.
    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The process id of its first child, the watcher, if there is one.
    pub(crate) fn watcher(&self) -> Option<Pid> {
        self.children().first().copied()
    }

    /// The process ids of its children, oldest first.
    pub(crate) fn children(&self) -> Vec<Pid> {
        children_of(self.id())
    }

    /// Kills it with SIGKILL and waits for the end of the process.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGHUP, so that it reloads its config, and waits until it has logged a line about that.
    pub(crate) fn reload(&self) {
        let before = self.log().len();
        self.signal(Signal::SIGHUP);
        assert!(within(SOON, || self.log().len() > before), "a reload logs a line");
        // The line may be logged shortly before the new policy reaches the watcher.
        thread::sleep(Duration::from_millis(200));
    }

    /// Sends SIGTERM and waits until it has exited.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        assert!(within(SOON, || self.child.try_wait().unwrap().is_some()), "SIGTERM stops the daemon");
        self.child.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail if it has already exited, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}
