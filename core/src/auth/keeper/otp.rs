//! One-time passwords: which one a client may use now, and how many wrong ones it may try.

use std::time::Duration;

use super::replay::{ReplayDomain, ReplayMemory};
use crate::crypto::{OtpSeed, OtpStep};
use crate::knock::{Now, Steady, Timestamp};

/// What identifies a code besides its seed and step: nothing.
pub(in crate::auth) const CODE_ID: [u8; 12] = [0; 12];
/// Wrong ones in a row that lead to a pause: a guesser has some five in a million, for each pause.
const WRONG_MAX: u32 = 5;
/// How long none counts then, for the first time; twice as long each time until one is right.
const PAUSE: Duration = Duration::from_secs(600);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(86_400);
/// A time step of RFC 6238.
const STEP: Duration = Duration::from_secs(30);
/// How far apart the clocks may be, in steps.
const NEAR: i64 = 1;
/// How far a code of another time is looked for, to say that a clock is wrong: ten minutes.
const FAR: i64 = 20;

/// Why a one-time password does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtpError {
    /// There is none, but the client needs one.
    Missing,
    /// It is none that the seed makes around now.
    Wrong,
    /// It is one of the past.
    Past(Duration),
    /// It is one of the future. A client must not learn that: a thief of its key could wait, and use it then.
    Future(Duration),
    /// It, or a later one, has been used.
    Reused,
    /// Too many wrong ones: so long until one counts again.
    Paused(Duration),
}

/// The wrong ones of one client.
#[derive(Debug, Default)]
pub(in crate::auth) struct OtpAttempts {
    wrong: u32,
    /// How many pauses there have been since one was right.
    pauses: u32,
    /// Until when none counts.
    paused: Option<Steady>,
}

/// The pauses of a client since one of its passwords was right, as they outlive the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtpPause {
    /// How many.
    pub count: u32,
    /// When the last one ends.
    pub until: Timestamp,
}

impl OtpAttempts {
    /// With the pauses that an earlier daemon has counted. A pause is never longer than it was at its begin, wherever
    /// the clock is now.
    pub(in crate::auth) fn resume(pause: OtpPause, now: Now) -> Self {
        let left = if pause.until > now.wall { pause.until.distance(now.wall) } else { Duration::ZERO };
        let left = left.min(length(pause.count));
        Self { wrong: 0, pauses: pause.count, paused: Some(now.steady.plus(left)) }
    }

    /// What must outlive the daemon; nothing where the last password was right.
    pub(in crate::auth) fn pause(&self, now: Now) -> Option<OtpPause> {
        let left = self.paused.map_or(Duration::ZERO, |until| until.since(now.steady));
        (self.pauses > 0).then(|| OtpPause { count: self.pauses, until: now.wall.plus(left) })
    }

    /// When the step of a code begins that counts now. Changes nothing but the number of guesses: to use it up is the
    /// caller's.
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
            // Who resends what was right is no guesser.
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

/// How long the pause of this number is.
fn length(number: u32) -> Duration {
    let factor = 1_u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE.saturating_mul(factor.max(1)).min(PAUSE_MAX)
}
