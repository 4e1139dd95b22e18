//! The signals of a program that runs a command in the foreground, as calls from a thread of their own.

use std::io;
use std::thread;

use nix::sys::signal::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// What a signal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// From the terminal, which sends it to all processes in the foreground.
    Terminal,
    /// A request to end, sent to this process alone.
    Stop(Signal),
    /// A child has ended, stopped or continued.
    Child,
}

/// Handles the signals from now on: calls `report` for each until it returns false. Signals that this process was started to ignore,
/// for example by `nohup`, stay ignored.
///
/// # Errors
/// When the system refuses.
pub fn listen(report: impl Fn(Interruption) -> bool + Send + 'static) -> io::Result<()> {
    let ignored = ignored();
    let handled = [SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM]
        .into_iter()
        .filter(|&signal| signal == SIGCHLD || !contains(ignored, signal));
    let mut signals = signal_hook::iterator::Signals::new(handled)?;
    thread::Builder::new().spawn(move || {
        let _ = signals.forever().map(meaning).all(report);
    })?;
    Ok(())
}

/// Stops this process until its job is continued. The shell then sees that the job has stopped.
pub fn stop_this_process() {
    let _ = nix::sys::signal::raise(Signal::SIGSTOP);
}

fn meaning(signal: i32) -> Interruption {
    match signal {
        SIGHUP => Interruption::Stop(Signal::SIGHUP),
        SIGTERM => Interruption::Stop(Signal::SIGTERM),
        SIGINT | SIGQUIT => Interruption::Terminal,
        _ => Interruption::Child,
    }
}

/// The ignored signals as a set of bits (proc_pid_status(5)). Only Linux reports them without `unsafe`; elsewhere they
/// are handled like others.
fn ignored() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "not a file that a user names")]
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

fn contains(set: u64, signal: i32) -> bool {
    // Bit 0 is signal 1.
    let bit = u32::try_from(signal).ok().and_then(|signal| signal.checked_sub(1));
    bit.and_then(|bit| set.checked_shr(bit)).is_some_and(|shifted| shifted & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_ignored_signals_begins_with_signal_1() {
        assert!(contains(0b1, SIGHUP) && !contains(0b1, SIGINT));
        assert!(contains(0x4000, SIGTERM) && !contains(0x4000, SIGHUP));
        assert!(!contains(u64::MAX, 0) && !contains(u64::MAX, -1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_runtime_ignores_the_signal_for_a_closed_pipe() {
        assert!(contains(ignored(), signal_hook::consts::SIGPIPE));
    }
}
