//! One-time passwords: which code a client may use now, and how many wrong codes it may try.

use std::time::Duration;

use super::replay::{ReplayDomain, ReplayMemory};
use crate::crypto::{OtpSeed, OtpStep};
use crate::knock::{Now, Steady, Timestamp};

/// The id of a code in the replay memory. Seed and time step identify it, so the id is constant.
pub(in crate::auth) const CODE_ID: [u8; 12] = [0; 12];
/// Wrong codes in a row that start a pause: an attacker has five guesses among a million codes for each pause.
const WRONG_MAX: u32 = 5;
/// Length of the first pause, in which no code is accepted. It doubles with each further pause until a code is correct.
const PAUSE: Duration = Duration::from_secs(600);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(86_400);
/// A time step of RFC 6238.
const STEP: Duration = Duration::from_secs(30);
/// The largest accepted difference between the clocks, in time steps.
const NEAR: i64 = 1;
/// How far a code of another time is searched for, in time steps (ten minutes), to report a wrong clock.
const FAR: i64 = 20;

/// Why a one-time password is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtpError {
    /// The client must send one, but did not.
    Missing,
    /// The seed generates it for no time step near the current time.
    Wrong,
    /// It belongs to a time step in the past.
    Past(Duration),
    /// It belongs to a time step in the future. The client must not learn that: a thief of its key could wait and use
    /// it then.
    Future(Duration),
    /// It, or a later one, has already been used.
    Reused,
    /// Too many wrong codes: the remaining time until a code is accepted again.
    Paused(Duration),
}

/// The wrong codes of one client.
#[derive(Debug, Default)]
pub(in crate::auth) struct OtpAttempts {
    wrong: u32,
    /// The number of pauses since the last correct code.
    pauses: u32,
    /// The end of the current pause.
    paused: Option<Steady>,
}

/// A client's pauses since its last correct code, as they are stored across a restart of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtpPause {
    /// The number of pauses.
    pub count: u32,
    /// The end of the last pause.
    pub until: Timestamp,
}

impl OtpAttempts {
    /// Restores the pauses of an earlier daemon. A pause is never longer than its original length, whatever the clock
    /// shows now.
    pub(in crate::auth) fn resume(pause: OtpPause, now: Now) -> Self {
        let left = if pause.until > now.wall { pause.until.distance(now.wall) } else { Duration::ZERO };
        let left = left.min(length(pause.count));
        Self { wrong: 0, pauses: pause.count, paused: Some(now.steady.plus(left)) }
    }

    /// The pauses to store across a restart of the daemon; `None` if the last code was correct.
    pub(in crate::auth) fn pause(&self, now: Now) -> Option<OtpPause> {
        let left = self.paused.map_or(Duration::ZERO, |until| until.since(now.steady));
        (self.pauses > 0).then(|| OtpPause { count: self.pauses, until: now.wall.plus(left) })
    }

    /// Checks a code. Returns the start of its time step. Changes only the number of wrong codes; consuming the code is
    /// up to the caller.
    pub(in crate::auth) fn check(
        &mut self,
        seed: &OtpSeed,
        code: Option<u32>,
        replay: &ReplayMemory,
        now: Now,
    ) -> Result<Timestamp, OtpError> {
        if let Some(left) = self.paused.map(|until| until.since(now.steady))
            && !left.is_zero()
        {
            return Err(OtpError::Paused(left));
        }
        self.paused = None;
        let code = code.ok_or(OtpError::Missing)?;
        let this = OtpStep::of(now.wall);
        let made = |off: &i64| seed.code(this.plus(*off)) == code;
        let key = seed.fingerprint();
        let is_new = |begin: &Timestamp| replay.check(key, ReplayDomain::Codes, *begin, &CODE_ID).is_ok();
        let near: Vec<Timestamp> = (-NEAR..=NEAR).filter(made).map(|off| this.plus(off).begin()).collect();
        if let Some(begin) = near.iter().copied().find(is_new) {
            *self = Self::default();
            return Ok(begin);
        }
        if !near.is_empty() {
            // A client that resends a correct code is not guessing.
            return Err(OtpError::Reused);
        }
        self.wrong = self.wrong.saturating_add(1);
        if self.wrong >= WRONG_MAX {
            let pauses = self.pauses.saturating_add(1);
            let until = now.steady.plus(length(pauses));
            *self = Self { wrong: 0, pauses, paused: Some(until) };
        }
        let far = (-FAR..=FAR).find(made);
        let apart = |steps: i64| STEP.saturating_mul(u32::try_from(steps.unsigned_abs()).unwrap_or(u32::MAX));
        Err(match far {
            None => OtpError::Wrong,
            Some(steps) if steps < 0 => OtpError::Past(apart(steps)),
            Some(steps) => OtpError::Future(apart(steps)),
        })
    }
}

/// The length of the n-th pause.
fn length(number: u32) -> Duration {
    let factor = 1_u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE.saturating_mul(factor.max(1)).min(PAUSE_MAX)
}
