//! Everything that a watcher must not be able to do, one trial each. Where nothing denies it, a trial succeeds, or it
//! fails because of its arguments. It harms at most the process that makes it.

mod capture;
mod channel;
mod descriptors;
mod files;
mod memory;
mod processes;
mod rights;
mod sockets;
mod system;
mod udp;

use crate::call::Outcome;
use crate::target::Target;

/// The name of an attempt and the function that makes it.
pub(crate) type Trial = (&'static str, fn(&Target) -> Outcome);

/// The parts of the sandbox that deny a trial.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// seccomp and Landlock.
    File,
    /// seccomp and resource limits. For some of these, seccomp depends on the arguments.
    Limit,
    /// Only seccomp.
    Call,
    /// seccomp and the lock on the capture filter.
    Lock,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::File, Self::Limit, Self::Call, Self::Lock];
}

/// The trials of these kinds that apply to this target.
pub(crate) fn of<'k>(target: &Target, kinds: &'k [Kind]) -> impl Iterator<Item = &'static Trial> + use<'k> {
    let source: [(Kind, &[Trial]); 2] = if target.is_capture {
        [(Kind::Call, capture::TRIALS), (Kind::Lock, capture::LOCKED)]
    } else {
        [(Kind::Call, udp::TRIALS), (Kind::Lock, &[])]
    };
    let everywhere: [(Kind, &[Trial]); 12] = [
        (Kind::File, files::TRIALS),
        (Kind::File, sockets::BEHIND_LANDLOCK),
        (Kind::Call, files::ONLY_CALLS),
        (Kind::Limit, descriptors::NEW),
        (Kind::Call, descriptors::TRIALS),
        (Kind::Call, sockets::TRIALS),
        (Kind::Call, channel::TRIALS),
        (Kind::Limit, processes::NEW),
        (Kind::Call, processes::TRIALS),
        (Kind::Call, rights::TRIALS),
        (Kind::Limit, memory::MORE),
        (Kind::Call, memory::TRIALS),
    ];
    let all = everywhere.into_iter().chain(source).chain([(Kind::Call, system::TRIALS)]);
    all.filter(move |(kind, _)| kinds.contains(kind)).flat_map(|(_, trials)| trials)
}

/// The line that reports the result of a trial.
pub(crate) fn line(name: &str, outcome: Outcome) -> String {
    let errno = match outcome {
        Err(libc::EPERM) => "EPERM",
        Err(libc::EACCES) => "EACCES",
        // Errors of the resource limits.
        Err(libc::EAGAIN) => "EAGAIN",
        Err(libc::EMFILE) => "EMFILE",
        Err(libc::ENOMEM) => "ENOMEM",
        Ok(_) => return format!("ALLOWED {name}"),
        // The error does not come from the sandbox.
        Err(other) => return format!("ALLOWED {name} (errno {other})"),
    };
    format!("denied {name} {errno}")
}
