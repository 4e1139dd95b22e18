//! Every system call at which a daemon can be killed, read from what strace wrote of one that was not.

use std::collections::HashMap;

/// A system call of the daemon, as it makes it for the `nth` time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) victim: Victim,
    pub(crate) phase: Phase,
    call: String,
    nth: usize,
}

/// Who makes the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The keeper's main thread.
    Keeper,
    /// Another thread of the keeper.
    Thread,
    /// The watcher, from its first call on.
    Watcher,
}

/// When the call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until the daemon says that it is ready.
    Start,
    /// While it is knocked at.
    Knock,
    /// After SIGTERM.
    Stop,
}

/// When a recorded daemon was ready, and when it was told to stop, in seconds since the Unix epoch.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) ready: f64,
    pub(crate) stopped: f64,
}

/// A child's end is waited for by looking again and again, another number of times in each run.
const LOOKING: [&str; 2] = ["wait4", "clock_nanosleep"];
/// So many such calls in a row tell as much as all of them.
const LOOKS: usize = 4;

impl Point {
    /// strace's words for what is to happen at this point: `signal=SIGKILL` or `error=EIO`, say.
    pub(crate) fn injection(&self, what: &str) -> [String; 2] {
        let Self { call, nth, .. } = self;
        [format!("--trace={call}"), format!("--inject={call}:{what}:when={nth}")]
    }

    /// Whether it is one of these calls.
    pub(crate) fn is_one_of(&self, calls: &[&str]) -> bool {
        calls.contains(&self.call.as_str())
    }

    /// Whether another run comes here too, as far as can be told.
    pub(crate) fn is_certain(&self) -> bool {
        !self.is_one_of(&LOOKING)
    }

    /// A name for it.
    pub(crate) fn name(&self) -> String {
        format!("{:?}-{:?}-{}-{}", self.victim, self.phase, self.call, self.nth)
    }
}

/// What one process or thread did.
#[derive(Default)]
struct Life {
    calls: Vec<(f64, String)>,
    program: Option<Program>,
}

#[derive(PartialEq, Eq)]
enum Program {
    Watcher,
    Other,
}

/// All points of a log that `strace -f -ttt` wrote, in the order of their calls.
pub(crate) fn read(log: &str, times: Times) -> Vec<Point> {
    let mut keeper = None;
    let mut lives: HashMap<&str, Life> = HashMap::new();
    for (process, time, call, arguments) in log.lines().filter_map(parse) {
        let first = *keeper.get_or_insert(process);
        let life = lives.entry(process).or_default();
        if call == "execve" {
            // What it did before, it did as a copy of the keeper.
            life.calls.clear();
            let watches = arguments.contains("\"spa-knock-watcher\"");
            life.program =
                (process != first).then_some(if watches { Program::Watcher } else { Program::Other });
        } else {
            life.calls.push((time, call.to_owned()));
        }
    }
    let mut points = Vec::new();
    for (process, life) in lives {
        let victim = match life.program {
            None if Some(process) == keeper => Victim::Keeper,
            None => Victim::Thread,
            Some(Program::Watcher) => Victim::Watcher,
            Some(Program::Other) => continue,
        };
        points.extend(points_of(victim, life.calls, times));
    }
    points.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut distinct: Vec<Point> = Vec::new();
    for (_, point) in points {
        // strace counts each thread's calls alone, so that threads share their points.
        if point.victim != Victim::Thread || !distinct.contains(&point) {
            distinct.push(point);
        }
    }
    distinct
}

/// Process, time, call and arguments of a line that says that a call begins.
fn parse(line: &str) -> Option<(&str, f64, &str, &str)> {
    let (process, rest) = line.split_once(' ')?;
    let (time, event) = rest.trim_start().split_once(' ')?;
    let (call, arguments) = event.split_once('(')?;
    let is_name = call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name.then_some((process, time.parse().ok()?, call, arguments))
}

fn points_of(victim: Victim, calls: Vec<(f64, String)>, times: Times) -> Vec<(f64, Point)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut looks = 0;
    let mut points = Vec::new();
    for (time, call) in calls {
        let nth = *counts.entry(call.clone()).and_modify(|count| *count += 1).or_insert(1);
        looks = if LOOKING.contains(&call.as_str()) { looks + 1 } else { 0 };
        if looks > LOOKS {
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
