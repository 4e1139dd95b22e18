//! A running daemon.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Namespace, Site, within};

/// How long it may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// `spa-knockd run`; ended when dropped. A test that fails shows what it said.
pub(crate) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Daemon {
    /// Where it lies.
    pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_spa-knockd");

    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start(namespace: &Namespace, site: &Site) -> Self {
        Self::start_command(namespace, Self::command(site))
    }

    /// The same with a command of the test's own that runs it.
    pub(crate) fn start_command(namespace: &Namespace, command: Command) -> Self {
        let mut daemon = Self::launch(namespace, command);
        let running = |daemon: &mut Self| daemon.child.try_wait().unwrap().is_none();
        let ready = within(PATIENCE, || daemon.says("ready") || !running(&mut daemon));
        assert!(ready && running(&mut daemon), "the daemon is not ready");
        // Nothing is believed that was stamped in the very millisecond of the start.
        thread::sleep(Duration::from_millis(5));
        daemon
    }

    /// The command that runs it.
    pub(crate) fn command(site: &Site) -> Command {
        let mut command = Command::new(Self::PROGRAM);
        command.args(Self::words(site));
        command
    }

    /// What it is run with.
    pub(crate) fn words(site: &Site) -> [OsString; 3] {
        ["run".into(), "-c".into(), site.path("spa-knockd.toml").into()]
    }

    /// Starts a command that runs it, without waiting for anything.
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

    /// All that it has said on standard error.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log_bytes()).into_owned()
    }

    /// The same as it came.
    pub(crate) fn log_bytes(&self) -> Vec<u8> {
        self.log.lock().unwrap().clone()
    }

    /// Whether it has said this word.
    pub(crate) fn says(&self, word: &str) -> bool {
        self.log().split(|c: char| !c.is_alphanumeric()).any(|said| said == word)
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.ended().is_some()
    }

    /// How it has ended by itself, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Its process.
    pub(crate) fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Its child that watches, if there is one.
    pub(crate) fn watcher(&self) -> Option<Pid> {
        self.children().first().copied()
    }

    /// Its children, the oldest first.
    pub(crate) fn children(&self) -> Vec<Pid> {
        let daemon = self.child.id();
        let path = format!("/proc/{daemon}/task/{daemon}/children");
        let children = std::fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().map(|child| Pid::from_raw(child.parse().unwrap())).collect()
    }

    /// Ends it as nothing can be ended more suddenly.
    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to read its config again, and waits until it has said something about that.
    pub(crate) fn reload(&self) {
        let before = self.log().len();
        self.signal(Signal::SIGHUP);
        assert!(within(PATIENCE, || self.log().len() > before), "a reload leaves a line in the log");
        // The line may come a moment before the new policy reaches the watcher.
        thread::sleep(Duration::from_millis(200));
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        assert!(within(PATIENCE, || self.child.try_wait().unwrap().is_some()), "SIGTERM stops the daemon");
        self.child.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail when it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the daemon said:\n{}", self.log());
        }
    }
}
