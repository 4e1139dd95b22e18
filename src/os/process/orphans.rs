//! Waits for orphans: the kernel gives processes whose parent has exited to the first process of a container (of a PID
//! namespace), and they stay zombies until it waits for them. Does nothing in any other process. Uses
//! `/proc/PID/task/TID/children` (proc(5)).

use std::collections::BTreeMap;
use std::io;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::descendants::{ProcessState, children_of, state_of};

/// Children that this process has started and may still wait for itself, by process id, each with its start time: a
/// reused id belongs to another process.
static STARTED: Mutex<BTreeMap<i32, u64>> = Mutex::new(BTreeMap::new());

/// Starts a child that its owner waits for.
///
/// # Errors
/// When that fails.
#[allow(clippy::disallowed_methods, reason = "part of the module that the rule points to")]
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    if !is_first_process() {
        return command.spawn();
    }
    // Locked until the child is listed, so that it is not taken for an orphan.
    let mut started = started();
    let child = command.spawn()?;
    if let Ok(pid) = i32::try_from(child.id())
        && let Some(state) = state_of(pid)
    {
        started.insert(pid, state.start);
    }
    Ok(child)
}

/// Waits for all orphans that have exited.
pub fn reap() {
    if !is_first_process() {
        return;
    }
    let mut started = started();
    // Without the list, none of our own children may be taken for an orphan.
    let Ok(children) = children_of(1) else { return };
    let children: Vec<(i32, ProcessState)> =
        children.into_iter().filter_map(|pid| Some((pid, state_of(pid)?))).collect();
    started.retain(|pid, start| children.iter().any(|(child, state)| child == pid && state.start == *start));
    for (pid, state) in children {
        if state.has_exited && !started.contains_key(&pid) {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}

fn is_first_process() -> bool {
    std::process::id() == 1
}

fn started() -> MutexGuard<'static, BTreeMap<i32, u64>> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}
