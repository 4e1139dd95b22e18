//! Trials that may succeed: each in a child of its own, which builds the walls for itself and ends after it.

use spa_knock::os::net::seqpacket::Channel;
use spa_knock::os::process::privileges::Identity;

use crate::call::Outcome;
use crate::target::Target;
use crate::trials::{self, Kind};
use crate::{LIFETIME_S, Walls, build, println};

/// A child that could not build its walls; no errno.
const NO_WALLS: i32 = 255;

/// Makes the trials that these walls are meant for.
pub(crate) fn run(target: &Target, walls: Walls, identity: Option<Identity>, channel: &Channel) {
    let kinds: &[Kind] = match walls {
        Walls::None => &Kind::ALL,
        Walls::Limits => &[Kind::Limit],
        _ => &[Kind::File],
    };
    for trial in trials::of(target, kinds) {
        let result = in_a_child(|| build(walls, identity, channel).is_ok(), || trial.1(target));
        println(&match result {
            Some(outcome) => trials::line(trial.0, outcome),
            None => format!("BROKEN {}", trial.0),
        });
    }
}

fn in_a_child(prepare: impl FnOnce() -> bool, attempt: impl FnOnce() -> Outcome) -> Option<Outcome> {
    // SAFETY: there is one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: a call without memory. Whatever hangs ends.
        unsafe { libc::alarm(LIFETIME_S) };
        let code = if prepare() { attempt().err().unwrap_or(0) } else { NO_WALLS };
        // SAFETY: nothing is left to be done. A grandchild ends here, too.
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
        NO_WALLS => None,
        errno => Some(Err(errno)),
    }
}
