//! Trials that may succeed: each runs in its own child process, which confines itself first and exits afterwards.

use spa_knock::os::net::seqpacket::Channel;
use spa_knock::os::process::privileges::Identity;

use crate::call::Outcome;
use crate::target::Target;
use crate::trials::{self, Kind};
use crate::{LIFETIME_S, Sandbox, enter, println};

/// Exit code of a child that could not confine itself; not a valid error number.
const NOT_CONFINED: i32 = 255;

/// Runs the trials that this part of the sandbox must deny.
pub(crate) fn run(target: &Target, sandbox: Sandbox, identity: Option<Identity>, channel: &Channel) {
    let kinds: &[Kind] = match sandbox {
        Sandbox::None => &Kind::ALL,
        Sandbox::Limits => &[Kind::Limit],
        _ => &[Kind::File],
    };
    for trial in trials::of(target, kinds) {
        let result = in_a_child(|| enter(sandbox, identity, channel).is_ok(), || trial.1(target));
        println(&match result {
            Some(outcome) => trials::line(trial.0, outcome),
            None => format!("BROKEN {}", trial.0),
        });
    }
}

fn in_a_child(prepare: impl FnOnce() -> bool, attempt: impl FnOnce() -> Outcome) -> Option<Outcome> {
    // SAFETY: this process has only one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the call accesses no memory. The alarm kills a process that hangs.
        unsafe { libc::alarm(LIFETIME_S) };
        let code = if prepare() { attempt().err().unwrap_or(0) } else { NOT_CONFINED };
        // SAFETY: no cleanup is necessary. A grandchild exits here, too.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: `status` is writable.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if waited != child || !libc::WIFEXITED(status) {
        return None;
    }
    match libc::WEXITSTATUS(status) {
        0 => Some(Ok(0)),
        NOT_CONFINED => None,
        errno => Some(Err(errno)),
    }
}
