//! A daemon that is killed at any system call while it starts, acts or stops: no knock acts twice, and the next valid
//! knock works. The same test with a daemon that acts before it records shows that the test would find double actions.

pub(crate) mod points;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::points::{Phase, Point, Times, Victim};
use crate::net::{CLIENT4, Daemon, SERVER4, SOON, ask, full, within};
use crate::notebook::{Note, Notebook};
use crate::strace::{Strace, detach};

/// Time limit for the daemon to log that it is ready after its socket exists.
const READY_WITHIN: Duration = Duration::from_secs(1);
/// Number of points of each kind that are tested if the run is not full.
const SAMPLE: usize = 12;
/// The same for the test that must find points at which a knock acts twice.
const WIDER_SAMPLE: usize = 24;

/// The results for a number of points.
#[derive(Default)]
struct Findings {
    tried: usize,
    /// Number of points at which the daemon or its watcher was killed.
    killed: usize,
    /// Points at which it should have been killed, but was not.
    missed: Vec<String>,
    /// Number of knocks that acted more than once.
    doubles: usize,
    /// The longest time that a valid knock took afterwards.
    slowest: Duration,
}

impl Notebook {
    /// The points of a whole run: start, knocks and stop.
    pub(crate) fn points(&self) -> Vec<Point> {
        // The first start does more than later ones, so it is not recorded.
        assert!(self.start().terminate().success());
        let log = self.site.path("calls");
        let mut daemon = Daemon::start_command(&self.lab.server, self.under_strace(&["-f", "-ttt"], &log));
        let ready = since_epoch();
        let note = self.note("recorded");
        self.do_both(&mut daemon, &note);
        assert!(within(SOON, || self.times(&note) == 1));
        let stopped = since_epoch();
        assert!(daemon.terminate().success());
        points::read(&fs::read_to_string(log).unwrap(), Times { ready, stopped })
    }

    /// Kills one daemon at each of these points.
    fn sweep(&self, points: &[Point]) -> Findings {
        let mut findings = Findings { tried: points.len(), ..Findings::default() };
        let mut notes = Vec::new();
        for point in points {
            let old = self.note(&point.name());
            let killed = match point.victim {
                Victim::Keeper | Victim::Thread => self.kill_keeper(point, &old),
                Victim::Watcher => self.kill_watcher(point, &old, &mut findings),
            };
            findings.killed += usize::from(killed);
            findings.missed.extend((!killed && point.is_certain()).then(|| old.name.clone()));
            let mut next = self.start();
            for _ in 0..2 {
                self.repeat(&old);
            }
            findings.record_time(self.works(&format!("{}-next", old.name)));
            next.kill9();
            notes.push(old);
        }
        findings.doubles = notes.iter().filter(|old| self.times(old) > 1).count();
        if self.has_undo {
            self.check_undone(&notes);
        }
        findings
    }

    /// Asserts that each action was undone once, or that an undo with an unknown result is in the audit log.
    fn check_undone(&self, notes: &[Note]) {
        let _last = self.start();
        let acted = || notes.iter().filter(|old| self.times(old) > 0);
        within(Duration::from_secs(3), || acted().all(|old| self.times_undone(old) > 0));
        let not_undone: Vec<&str> =
            acted().filter(|old| self.times_undone(old) == 0).map(|old| old.name.as_str()).collect();
        let failed = self.site.audit_of("failed");
        let unknown = failed.iter().filter(|record| record["reason"] == "undo-unknown").count();
        println!(
            "undone: {} of {}, {unknown} reported as unknown",
            acted().count() - not_undone.len(),
            acted().count()
        );
        assert!(not_undone.len() <= unknown, "neither undone nor reported: {not_undone:?}");
        let twice: Vec<&str> =
            notes.iter().filter(|old| self.times_undone(old) > 1).map(|old| old.name.as_str()).collect();
        assert!(twice.is_empty(), "undone twice: {twice:?}");
    }

    /// Runs a daemon that is killed at this point. Returns whether it was killed.
    fn kill_keeper(&self, point: &Point, old: &Note) -> bool {
        let status = self.live(&mut self.launch_with(point, "signal=SIGKILL"), old);
        status.signal() == Some(nix::libc::SIGKILL)
    }

    /// Starts a daemon whose keeper gets this injection of strace at this point.
    pub(crate) fn launch_with(&self, point: &Point, what: &str) -> Daemon {
        let injection = point.injection(what);
        let injection = injection.iter().map(String::as_str);
        // A killed daemon may have left it behind.
        let _ = fs::remove_file(self.site.path("control.sock"));
        // strace detaches from child processes when they execute another program.
        let threads = (point.victim == Victim::Thread).then_some(["-f", "-b", "execve"]);
        let args: Vec<&str> = threads.into_iter().flatten().chain(injection).collect();
        Daemon::launch(&self.lab.server, self.under_strace(&args, &self.site.path("faults")))
    }

    /// Runs a daemon through start, knocks and stop, as far as it gets. Returns its exit status.
    pub(crate) fn live(&self, daemon: &mut Daemon, old: &Note) -> ExitStatus {
        if self.survives_knocks(daemon, old) {
            self.stop(daemon, old);
        }
        daemon.exit_status().expect("the daemon has exited")
    }

    /// Runs a daemon whose watcher is killed at this point; a daemon that was ready must continue. Returns whether the
    /// watcher was killed.
    fn kill_watcher(&self, point: &Point, old: &Note, findings: &mut Findings) -> bool {
        // Each child process of the keeper is stopped when it executes another program. Then strace detaches from it.
        let args = ["-I2", "-f", "-b", "execve", "--trace=execve", "--inject=execve:signal=SIGSTOP:when=1"];
        let mut dying = Daemon::launch(&self.lab.server, self.under_strace(&args, Path::new("/dev/null")));
        let watcher = stopped_watcher(&mut dying);
        detach(dying.id());
        let log = self.site.path("watched");
        let strace = Strace::attach(watcher, &point.injection("signal=SIGKILL"), &log);
        kill(watcher, Signal::SIGCONT).unwrap();
        let killed = || fs::read_to_string(&log).unwrap().contains("+++ killed by SIGKILL");
        if self.survives_knocks(&mut dying, old) {
            if killed() {
                self.repeat(old);
                findings.record_time(self.works(&format!("{}-same", old.name)));
            }
            self.stop(&mut dying, old);
        }
        strace.wait();
        killed()
    }

    /// Whether a daemon becomes ready and is still running after its knocks.
    fn survives_knocks(&self, daemon: &mut Daemon, old: &Note) -> bool {
        let start = Instant::now();
        // If the daemon cannot log that it is ready, its socket shows it: the socket is created just before.
        let silent = || start.elapsed() > READY_WITHIN && self.site.path("control.sock").exists();
        assert!(
            within(SOON, || daemon.has_logged("ready") || daemon.has_exited() || silent()),
            "{}",
            old.name
        );
        if !daemon.has_exited() {
            self.do_both(daemon, old);
        }
        !daemon.has_exited()
    }

    /// Sends one knock that runs a command and one that opens a port. Waits until both have acted or the daemon has
    /// exited.
    fn do_both(&self, daemon: &mut Daemon, old: &Note) {
        let socket = self.lab.client.udp(CLIENT4);
        socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        for datagram in [old.datagram.as_bytes(), &self.laptop.good()] {
            if ask(&socket, SERVER4, datagram).is_none() && daemon.has_exited() {
                return;
            }
        }
        if self.has_undo {
            within(Duration::from_millis(1_500), || daemon.has_exited() || self.times_undone(old) > 0);
        }
        // The end of a command is recorded shortly after its effect.
        within(Duration::from_millis(60), || daemon.has_exited());
    }

    fn stop(&self, daemon: &mut Daemon, old: &Note) {
        // It may already be exiting.
        let _ = kill(daemon.id(), Signal::SIGTERM);
        assert!(within(SOON, || daemon.has_exited()), "{}: does not stop", old.name);
    }

    /// A command that runs the daemon under strace, with strace as a child of the daemon (`-D`).
    fn under_strace(&self, args: &[&str], log: &Path) -> Command {
        let common = ["strace", "-D", "-q", "-o", log.to_str().unwrap()];
        self.command(&[&common, args].concat())
    }
}

impl Findings {
    fn record_time(&mut self, took: Duration) {
        self.slowest = self.slowest.max(took);
    }

    fn print(&self, what: &str) {
        let Self { tried, killed, doubles, slowest, .. } = self;
        println!(
            "{what}: {tried} points, {killed} of them reached, {doubles} double actions; the next valid knock took \
             at most {} ms",
            slowest.as_millis()
        );
    }
}

/// Waits for the first watcher, stopped at the start of its program. Other stopped processes are continued.
fn stopped_watcher(daemon: &mut Daemon) -> Pid {
    let stopped = |process: &Pid| {
        let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    let watches = |process: &Pid| {
        let args = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        args.split('\0').next() == Some("spa-knock-watcher")
    };
    let mut watcher = None;
    let found = within(SOON, || {
        let (found, others): (Vec<Pid>, _) = daemon.children().into_iter().filter(stopped).partition(watches);
        others.into_iter().for_each(|other| kill(other, Signal::SIGCONT).unwrap());
        watcher = found.first().copied();
        watcher.is_some()
    });
    assert!(found, "no watcher was started: {}", daemon.log());
    watcher.unwrap()
}

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// All points, or in a run that is not full, `size` points from the whole range.
pub(crate) fn sample(points: Vec<Point>, size: usize) -> Vec<Point> {
    if full() || points.len() <= size {
        return points;
    }
    (0..size).map(|place| points[place * points.len() / size].clone()).collect()
}

fn no_knock_acts_twice(what: &str, chosen: impl Fn(&Point) -> bool) {
    let Some(notebook) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let points: Vec<Point> = notebook.points().into_iter().filter(chosen).collect();
    assert!(points.len() > SAMPLE, "{points:?}");
    let findings = notebook.sweep(&sample(points, SAMPLE));
    findings.print(what);
    assert_eq!(findings.doubles, 0);
    // The number of system calls differs slightly between runs, so some points are not reached.
    assert!(findings.missed.len() * 4 <= findings.tried, "{:?} of {}", findings.missed, findings.tried);
}

#[test]
fn a_keeper_killed_at_any_system_call_of_its_start_acts_on_no_knock_twice() {
    no_knock_acts_twice("keeper killed while it starts", |point| {
        point.victim != Victim::Watcher && point.phase == Phase::Start
    });
}

#[test]
fn a_keeper_killed_at_any_system_call_while_it_acts_or_stops_acts_on_no_knock_twice() {
    no_knock_acts_twice("keeper killed while it acts and stops", |point| {
        point.victim != Victim::Watcher && point.phase != Phase::Start
    });
}

#[test]
fn a_keeper_killed_at_any_system_call_of_an_undo_task_runs_no_undo_task_twice() {
    let Some(notebook) = Notebook::with_undo(Path::new(Daemon::PROGRAM)) else { return };
    let chosen = |point: &Point| point.victim == Victim::Keeper && point.phase == Phase::Knock;
    let points: Vec<Point> = notebook.points().into_iter().filter(chosen).collect();
    assert!(points.len() > SAMPLE, "{points:?}");
    let findings = notebook.sweep(&sample(points, SAMPLE));
    findings.print("keeper killed while it acts and undoes");
    assert_eq!(findings.doubles, 0);
    assert!(findings.killed * 2 > findings.tried, "{:?} of {}", findings.missed, findings.tried);
}

#[test]
fn a_watcher_killed_at_any_system_call_is_replaced_and_no_knock_acts_twice() {
    no_knock_acts_twice("watcher killed", |point| point.victim == Victim::Watcher);
}

#[test]
fn a_daemon_that_acts_before_it_records_is_detected() {
    let program = Path::new(Daemon::PROGRAM).with_file_name("spa-knockd-swapped");
    let Some(notebook) = Notebook::new(&program, "") else { return };
    assert!(
        program.exists(),
        "{0} is missing: cargo build --features swap-act-and-record --bin spa-knockd && cp {1} {0}",
        program.display(),
        Daemon::PROGRAM
    );
    let chosen = |point: &Point| point.victim == Victim::Keeper && point.phase == Phase::Knock;
    let points: Vec<Point> = notebook.points().into_iter().filter(chosen).collect();
    let findings = notebook.sweep(&sample(points, WIDER_SAMPLE));
    findings.print("keeper that acts before it records, killed while it acts");
    assert!(findings.doubles > 0, "the test finds double actions");
}
