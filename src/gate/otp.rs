//! One-time passwords: which one a client may use now, and how many wrong ones it may try.

use std::time::Duration;

use super::replay::{Lane, ReplayMemory};
use crate::crypto::{OtpSeed, OtpStep};
use crate::knock::{Now, Timestamp};

/// What identifies a code besides its seed and step: nothing.
pub(super) const CODE_ID: [u8; 12] = [0; 12];
/// Wrong ones in a row that lead to a pause: a guesser has some five in a million, for each pause.
const WRONG_MAX: u32 = 5;
/// How long none counts then.
const PAUSE: Duration = Duration::from_secs(600);
/// How far apart the clocks may be, in steps.
const NEAR: i64 = 1;
/// How far a code of another time is looked for, to say that a clock is wrong: ten minutes.
const FAR: i64 = 20;

/// Why a one-time password does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtpFault {
    /// There is none, but the client needs one.
    Missing,
    /// It is none that the seed makes around now.
    Wrong,
    /// It is one of another time, so many seconds later than now (negative: earlier).
    Skewed(i64),
    /// It, or a later one, has been used.
    Reused,
    /// Too many wrong ones: so long until one counts again.
    Paused(Duration),
}

/// The wrong ones of one client.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    wrong: u32,
    /// Until this steady time.
    paused: Option<Duration>,
}

impl Guesses {
    /// When the step of a code begins that counts now. Changes nothing but the number of guesses: to use it up is the
    /// caller's.
    pub(super) fn check(
        &mut self,
        seed: &OtpSeed,
        code: Option<u32>,
        replay: &ReplayMemory,
        now: Now,
    ) -> Result<Timestamp, OtpFault> {
        if let Some(left) = self.paused.map(|until| until.saturating_sub(now.steady))
            && !left.is_zero()
        {
            return Err(OtpFault::Paused(left));
        }
        self.paused = None;
        let code = code.ok_or(OtpFault::Missing)?;
        let this = OtpStep::of(now.wall);
        let made = |off: &i64| seed.code(this.plus(*off)) == code;
        let key = seed.fingerprint();
        let is_new = |begin: &Timestamp| replay.check(key, Lane::Codes, *begin, &CODE_ID).is_ok();
        let near: Vec<Timestamp> = (-NEAR..=NEAR).filter(made).map(|off| this.plus(off).begin()).collect();
        if let Some(begin) = near.iter().copied().find(is_new) {
            self.wrong = 0;
            return Ok(begin);
        }
        if !near.is_empty() {
            // Who resends what was right is no guesser.
            return Err(OtpFault::Reused);
        }
        self.wrong = self.wrong.saturating_add(1);
        if self.wrong >= WRONG_MAX {
            *self = Self { wrong: 0, paused: Some(now.steady.saturating_add(PAUSE)) };
        }
        let far = (-FAR..=FAR).find(made);
        Err(far.map_or(OtpFault::Wrong, |steps| OtpFault::Skewed(steps.saturating_mul(30))))
    }
}
