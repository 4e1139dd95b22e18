//! A daemon that is killed at any system call, as it starts, acts and stops: no knock acts twice, and the next honest
//! one works. The same trial of a daemon that acts before it records shows that it would find otherwise.

pub(crate) mod points;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::points::{Phase, Point, Times, Victim};
use crate::net::{CLIENT4, Daemon, SERVER4, ask, full, within};
use crate::notebook::{Note, Notebook};
use crate::strace::{Strace, let_go};

/// How long starting and stopping may take with strace beside.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long after its socket is there a daemon may take to say that it is ready.
const TELLS_WITHIN: Duration = Duration::from_secs(1);
/// Points that CI tries of each kind.
const SAMPLE: usize = 12;
/// The same where some must be found at which a knock acts twice.
const WIDER_SAMPLE: usize = 24;

/// What became of some points.
#[derive(Default)]
struct Findings {
    tried: usize,
    /// Where the daemon, or its watcher, was really killed.
    killed: usize,
    /// Where it should have been, and was not.
    missed: Vec<String>,
    /// Knocks that acted more than once.
    doubles: usize,
    /// The longest that an honest knock took afterwards.
    slowest: Duration,
}

impl Notebook {
    /// The points of a whole life: start, knocks, stop.
    pub(crate) fn points(&self) -> Vec<Point> {
        // The first start does more than the others: the gate closes last.
        assert!(self.start().terminate().success());
        let log = self.site.path("calls");
        let mut daemon = Daemon::start_command(&self.lab.server, self.under_strace(&["-f", "-ttt"], &log));
        let ready = since_epoch();
        let recorded = self.note("recorded");
        self.do_both(&mut daemon, &recorded);
        assert!(within(PATIENCE, || self.times(&recorded) == 1));
        let stopped = since_epoch();
        assert!(daemon.terminate().success());
        points::read(&fs::read_to_string(log).unwrap(), Times { ready, stopped })
    }

    /// Kills a daemon at one point after the other.
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
            findings.time(self.works(&format!("{}-next", old.name)));
            next.kill9();
            notes.push(old);
        }
        findings.doubles = notes.iter().filter(|old| self.times(old) > 1).count();
        if self.undoes {
            self.check_undone(&notes);
        }
        findings
    }

    /// What acted is undone once, or it is told that nobody knows.
    fn check_undone(&self, notes: &[Note]) {
        let _last = self.start();
        let acted = || notes.iter().filter(|old| self.times(old) > 0);
        within(Duration::from_secs(3), || acted().all(|old| self.times_undone(old) > 0));
        let untold: Vec<&str> =
            acted().filter(|old| self.times_undone(old) == 0).map(|old| old.name.as_str()).collect();
        let failed = self.site.audit_of("failed");
        let told = failed.iter().filter(|record| record["reason"] == "undo-unknown");
        let told = told.count();
        println!(
            "undone: {} of {}, {told} told of as unknown",
            acted().count() - untold.len(),
            acted().count()
        );
        assert!(untold.len() <= told, "neither undone nor told: {untold:?}");
        let twice: Vec<&str> =
            notes.iter().filter(|old| self.times_undone(old) > 1).map(|old| old.name.as_str()).collect();
        assert!(twice.is_empty(), "undone twice: {twice:?}");
    }

    /// A life that is to end at this point; whether it did.
    fn kill_keeper(&self, point: &Point, old: &Note) -> bool {
        let status = self.live(&mut self.launch_with(point, "signal=SIGKILL"), old);
        status.signal() == Some(nix::libc::SIGKILL)
    }

    /// A daemon to whose keeper this happens at this point.
    pub(crate) fn launch_with(&self, point: &Point, what: &str) -> Daemon {
        let injection = point.injection(what);
        let injection = injection.iter().map(String::as_str);
        // Left by one that was killed.
        let _ = fs::remove_file(self.site.path("control.sock"));
        // What it starts is let go of when it becomes another program.
        let threads = (point.victim == Victim::Thread).then_some(["-f", "-b", "execve"]);
        let words: Vec<&str> = threads.into_iter().flatten().chain(injection).collect();
        Daemon::launch(&self.lab.server, self.under_strace(&words, &self.site.path("faults")))
    }

    /// Start, knocks and stop, as far as it comes; how it ended.
    pub(crate) fn live(&self, daemon: &mut Daemon, old: &Note) -> ExitStatus {
        if self.lives(daemon, old) {
            self.stop(daemon, old);
        }
        daemon.ended().expect("it has ended")
    }

    /// A life that is to lose its watcher at this point, and to go on if it was ready; whether it did.
    fn kill_watcher(&self, point: &Point, old: &Note, findings: &mut Findings) -> bool {
        // Whatever the keeper starts stops as it becomes another program, and is let go of.
        let words = ["-I2", "-f", "-b", "execve", "--trace=execve", "--inject=execve:signal=SIGSTOP:when=1"];
        let mut dying = Daemon::launch(&self.lab.server, self.under_strace(&words, Path::new("/dev/null")));
        let watcher = stopped_watcher(&mut dying);
        let_go(dying.id());
        let log = self.site.path("watched");
        let strace = Strace::attach(watcher, &point.injection("signal=SIGKILL"), &log);
        kill(watcher, Signal::SIGCONT).unwrap();
        let killed = || fs::read_to_string(&log).unwrap().contains("+++ killed by SIGKILL");
        if self.lives(&mut dying, old) {
            if killed() {
                self.repeat(old);
                findings.time(self.works(&format!("{}-same", old.name)));
            }
            self.stop(&mut dying, old);
        }
        strace.wait();
        killed()
    }

    /// Whether a daemon gets ready and lives through its knocks.
    fn lives(&self, daemon: &mut Daemon, old: &Note) -> bool {
        let start = Instant::now();
        // One whose very words are kept from us has made its socket just before them.
        let silent = || start.elapsed() > TELLS_WITHIN && self.site.path("control.sock").exists();
        assert!(within(PATIENCE, || daemon.says("ready") || daemon.has_ended() || silent()), "{}", old.name);
        if !daemon.has_ended() {
            self.do_both(daemon, old);
        }
        !daemon.has_ended()
    }

    /// One knock that runs a command and one that opens a port; until both are over, or the daemon is.
    fn do_both(&self, daemon: &mut Daemon, old: &Note) {
        let socket = self.lab.client.udp(CLIENT4);
        socket.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        for datagram in [old.datagram.as_bytes(), &self.laptop.good()] {
            if ask(&socket, SERVER4, datagram).is_none() && daemon.has_ended() {
                return;
            }
        }
        if self.undoes {
            within(Duration::from_millis(1_500), || daemon.has_ended() || self.times_undone(old) > 0);
        }
        // A command's end is on record a moment after what it did.
        within(Duration::from_millis(60), || daemon.has_ended());
    }

    fn stop(&self, daemon: &mut Daemon, old: &Note) {
        // It may just be ending by itself.
        let _ = kill(daemon.id(), Signal::SIGTERM);
        assert!(within(PATIENCE, || daemon.has_ended()), "{}: does not stop", old.name);
    }

    /// The daemon with strace beside it, which is the daemon's child and not the other way.
    fn under_strace(&self, words: &[&str], log: &Path) -> Command {
        let common = ["strace", "-D", "-q", "-o", log.to_str().unwrap()];
        self.command(&[&common, words].concat())
    }
}

impl Findings {
    fn time(&mut self, took: Duration) {
        self.slowest = self.slowest.max(took);
    }

    fn print(&self, what: &str) {
        let Self { tried, killed, doubles, slowest, .. } = self;
        println!(
            "{what}: {tried} points, {killed} of them reached, {doubles} double actions; the next honest knock took \
             {} ms at most",
            slowest.as_millis()
        );
    }
}

/// The first watcher, as its program begins; all else that was stopped goes on.
fn stopped_watcher(daemon: &mut Daemon) -> Pid {
    let stopped = |process: &Pid| {
        let status = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    let watches = |process: &Pid| {
        let words = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        words.split('\0').next() == Some("spa-knock-watcher")
    };
    let mut watcher = None;
    let found = within(PATIENCE, || {
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

/// All of them, or some from everywhere.
pub(crate) fn sample(points: Vec<Point>, size: usize) -> Vec<Point> {
    if full() || points.len() <= size {
        return points;
    }
    (0..size).map(|place| points[place * points.len() / size].clone()).collect()
}

fn no_knock_acts_twice(what: &str, chosen: impl Fn(&Point) -> bool) {
    let Some(book) = Notebook::new(Path::new(Daemon::PROGRAM), "") else { return };
    let points: Vec<Point> = book.points().into_iter().filter(chosen).collect();
    assert!(points.len() > SAMPLE, "{points:?}");
    let findings = book.sweep(&sample(points, SAMPLE));
    findings.print(what);
    assert_eq!(findings.doubles, 0);
    // How often it is woken differs a little from run to run, so that some points lie beyond what it does.
    assert!(findings.missed.len() * 4 <= findings.tried, "{:?} of {}", findings.missed, findings.tried);
}

#[test]
fn a_keeper_killed_at_any_call_of_its_start_acts_on_no_knock_twice() {
    no_knock_acts_twice("keeper killed as it starts", |point| {
        point.victim != Victim::Watcher && point.phase == Phase::Start
    });
}

#[test]
fn a_keeper_killed_at_any_call_as_it_acts_and_stops_acts_on_no_knock_twice() {
    no_knock_acts_twice("keeper killed as it acts and stops", |point| {
        point.victim != Victim::Watcher && point.phase != Phase::Start
    });
}

#[test]
fn a_keeper_killed_at_any_call_as_it_undoes_undoes_nothing_twice() {
    let Some(book) = Notebook::undoing(Path::new(Daemon::PROGRAM)) else { return };
    let chosen = |point: &Point| point.victim == Victim::Keeper && point.phase == Phase::Knock;
    let points: Vec<Point> = book.points().into_iter().filter(chosen).collect();
    assert!(points.len() > SAMPLE, "{points:?}");
    let findings = book.sweep(&sample(points, SAMPLE));
    findings.print("keeper killed as it acts and undoes");
    assert_eq!(findings.doubles, 0);
    assert!(findings.killed * 2 > findings.tried, "{:?} of {}", findings.missed, findings.tried);
}

#[test]
fn a_watcher_killed_at_any_call_is_replaced_and_no_knock_acts_twice() {
    no_knock_acts_twice("watcher killed", |point| point.victim == Victim::Watcher);
}

#[test]
fn a_daemon_that_acts_before_it_records_is_found_out() {
    let program = Path::new(Daemon::PROGRAM).with_file_name("spa-knockd-swapped");
    let Some(book) = Notebook::new(&program, "") else { return };
    assert!(
        program.exists(),
        "{0} is missing: cargo build --features swap-act-and-record --bin spa-knockd && cp {1} {0}",
        program.display(),
        Daemon::PROGRAM
    );
    let when = |point: &Point| point.victim == Victim::Keeper && point.phase == Phase::Knock;
    let points: Vec<Point> = book.points().into_iter().filter(when).collect();
    let findings = book.sweep(&sample(points, WIDER_SAMPLE));
    findings.print("keeper that acts before it records, killed as it acts");
    assert!(findings.doubles > 0, "the trial finds nothing");
}
