//! Finds the descendants of a process, including those that have left its process group, because a command's deadline
//! applies to them too. Uses `/proc/PID/task/TID/children` (proc(5)); a kernel without that file shows none. A process
//! whose parent has exited (a daemon that detached itself) is no longer a descendant.
#![allow(clippy::disallowed_methods, reason = "part of the module that the rule points to")]

use std::collections::BTreeMap;
use std::{fs, io};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};

/// Maximum number of descendants. A command that keeps forking is killed in several rounds.
const DESCENDANTS_MAX: usize = 4096;
/// How often the search is repeated for processes that were forked while others were being stopped.
const ROUNDS_MAX: usize = 8;

/// Known descendants by process id, each with its start time: a reused id belongs to another process.
#[derive(Debug, Default)]
pub(in crate::os) struct Descendants(BTreeMap<i32, u64>);

impl Descendants {
    /// Adds the current descendants of `root` and of the known ones. All are stopped during the search, so that none
    /// can fork unnoticed. [`Self::signal_outside`] continues them.
    pub(in crate::os) fn stop_and_find(&mut self, root: u32) {
        let Ok(root) = i32::try_from(root) else { return };
        self.0.retain(|&pid, &mut start| start_of(pid) == Some(start));
        for _ in 0..ROUNDS_MAX {
            let before = self.0.len();
            let mut parents: Vec<i32> = std::iter::once(root).chain(self.0.keys().copied()).collect();
            while let Some(parent) = parents.pop() {
                for child in children_of(parent).unwrap_or_default() {
                    let Some(start) = start_of(child) else { continue };
                    if self.0.len() < DESCENDANTS_MAX && self.0.insert(child, start).is_none() {
                        let _ = kill(Pid::from_raw(child), Signal::SIGSTOP);
                        parents.push(child);
                    }
                }
            }
            if self.0.len() == before {
                return;
            }
        }
    }

    /// Sends a signal to all that still run and are not in the process group `group`, and continues all stopped ones.
    pub(in crate::os) fn signal_outside(&self, group: u32, signal: Signal) {
        let group = i32::try_from(group).ok().map(Pid::from_raw);
        for (&pid, &start) in &self.0 {
            let number = Pid::from_raw(pid);
            if start_of(pid) == Some(start) {
                if getpgid(Some(number)).ok() != group {
                    let _ = kill(number, signal);
                }
                let _ = kill(number, Signal::SIGCONT);
            }
        }
    }
}

/// The children of a process, also those that have exited.
pub(super) fn children_of(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(text) => children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// The start time of a process; `None` if it has exited.
fn start_of(pid: i32) -> Option<u64> {
    state_of(pid).filter(|state| !state.has_exited).map(|state| state.start)
}

/// A process in `/proc/PID/stat`.
pub(super) struct ProcessState {
    /// Whether it only waits for its parent.
    pub(super) has_exited: bool,
    /// When it was started, in clock ticks since boot.
    pub(super) start: u64,
}

/// The state of a process, from the fields 3 and 22 of its `stat`, after a name that may contain any characters.
pub(super) fn state_of(pid: i32) -> Option<ProcessState> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let has_exited = matches!(fields.next(), Some("Z" | "X"));
    let start = fields.nth(18)?.parse().ok()?;
    Some(ProcessState { has_exited, start })
}
