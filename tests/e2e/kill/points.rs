//! The system calls at which a daemon can be killed, read from strace's log of a daemon that was not killed.

use std::collections::HashMap;

/// The `nth` call of one system call by a part of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) victim: Victim,
    pub(crate) phase: Phase,
    call: String,
    nth: usize,
}

/// The process or thread that makes the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The keeper's main thread.
    Keeper,
    /// Another thread of the keeper.
    Thread,
    /// The watcher, from its first call.
    Watcher,
}

/// When the call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until the daemon logs that it is ready.
    Start,
    /// While it receives knocks.
    Knock,
    /// After SIGTERM.
    Stop,
}

/// When a recorded daemon was ready, and when it got SIGTERM, in seconds since the Unix epoch.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) ready: f64,
    pub(crate) stopped: f64,
}

/// Calls in a loop that waits for a child process; their number differs from run to run.
const POLLING: [&str; 2] = ["wait4", "clock_nanosleep"];
/// Number of such calls in a row that are used as points; more of them would show nothing new.
const POLLS: usize = 4;

impl Point {
    /// strace's arguments for an injection at this point, such as `signal=SIGKILL` or `error=EIO`.
    pub(crate) fn injection(&self, what: &str) -> [String; 2] {
        let Self { call, nth, .. } = self;
        [format!("--trace={call}"), format!("--inject={call}:{what}:when={nth}")]
    }

    /// Whether the system call is one of these.
    pub(crate) fn is_one_of(&self, calls: &[&str]) -> bool {
        calls.contains(&self.call.as_str())
    }

    /// Whether another run is expected to reach this point too.
    pub(crate) fn is_certain(&self) -> bool {
        !self.is_one_of(&POLLING)
    }

    /// A name for the point.
    pub(crate) fn name(&self) -> String {
        format!("{:?}-{:?}-{}-{}", self.victim, self.phase, self.call, self.nth)
    }
}

/// The calls of one process or thread.
#[derive(Default)]
struct Trace {
    calls: Vec<(f64, String)>,
    program: Option<Program>,
}

#[derive(PartialEq, Eq)]
enum Program {
    Watcher,
    Other,
}

/// Reads all points from a log of `strace -f -ttt`, in the order of their calls.
pub(crate) fn read(log: &str, times: Times) -> Vec<Point> {
    let mut keeper = None;
    let mut traces: HashMap<&str, Trace> = HashMap::new();
    for (process, time, call, arguments) in log.lines().filter_map(parse) {
        let first = *keeper.get_or_insert(process);
        let trace = traces.entry(process).or_default();
        if call == "execve" {
            // Its earlier calls were made as a copy of the keeper.
            trace.calls.clear();
            let watches = arguments.contains("\"spa-knock-watcher\"");
            trace.program =
                (process != first).then_some(if watches { Program::Watcher } else { Program::Other });
        } else {
            trace.calls.push((time, call.to_owned()));
        }
    }
    let mut points = Vec::new();
    for (process, trace) in traces {
        let victim = match trace.program {
            None if Some(process) == keeper => Victim::Keeper,
            None => Victim::Thread,
            Some(Program::Watcher) => Victim::Watcher,
            Some(Program::Other) => continue,
        };
        points.extend(points_of(victim, trace.calls, times));
    }
    points.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut distinct: Vec<Point> = Vec::new();
    for (_, point) in points {
        // strace counts the calls of each thread separately, so threads share their points.
        if point.victim != Victim::Thread || !distinct.contains(&point) {
            distinct.push(point);
        }
    }
    distinct
}

/// Process, time, call and arguments of a line that reports the start of a call.
fn parse(line: &str) -> Option<(&str, f64, &str, &str)> {
    let (process, rest) = line.split_once(' ')?;
    let (time, event) = rest.trim_start().split_once(' ')?;
    let (call, arguments) = event.split_once('(')?;
    let is_name = call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((process, time.parse().ok()?, call, arguments))
}

fn points_of(victim: Victim, calls: Vec<(f64, String)>, times: Times) -> Vec<(f64, Point)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut polls = 0;
    let mut points = Vec::new();
    for (time, call) in calls {
        let nth = *counts.entry(call.clone()).and_modify(|count| *count += 1).or_insert(1);
        polls = if POLLING.contains(&call.as_str()) { polls + 1 } else { 0 };
        if polls > POLLS {
            continue;
        }
        let phase = match time {
            _ if time < times.ready => Phase::Start,
            _ if time < times.stopped => Phase::Knock,
            _ => Phase::Stop,
        };
        points.push((time, Point { victim, phase, call, nth }));
    }
    points
}
