//! A script for a server, step by step: the input of the datagram target. All numbers are big-endian.

use spa_knock_core::knock::Timestamp;
use spa_knock_core::wire::{Reader, hint};

use crate::site;

/// Length in bytes of a body without random padding.
const BODY_MIN: usize = 160;
/// Offset of the content after the timestamp of a body.
const BODY_REST: usize = 10;

/// One step of a script.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// These bytes arrive from a source.
    Raw(u8, &'a [u8]),
    /// The client encrypts, signs and sends a datagram.
    Knock(u8, Sealed<'a>),
    /// A datagram of the client arrives again, possibly changed.
    Copy(u8, Copied),
    /// Time passes, in milliseconds: on the wall clock, which may jump, and on the monotonic clock.
    Pass(i32, u16),
    /// The daemon is killed, and this many bytes of its last write are lost.
    Restart(u8),
    /// The config is reloaded.
    Reload(u8),
}

/// The fields of the client's datagram.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// The value of all bytes of the nonce.
    pub nonce: u8,
    /// How far the client's clock is ahead, in milliseconds.
    pub skew: i32,
    /// The difference between the hint's epoch and that of the timestamp.
    pub off: i8,
    /// Length of the random padding.
    pub padding: u8,
    /// The body's version.
    pub version: u8,
    /// The body's flags.
    pub flags: u8,
    /// The content after the timestamp; missing bytes are zeros.
    pub rest: &'a [u8],
}

/// Which of the client's datagrams arrives again, and how it is changed.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    /// Its index among the client's datagrams.
    pub which: u8,
    /// The offset of the changed byte.
    pub at: u16,
    /// The bits that are flipped.
    pub flip: u8,
    /// Who changes it: anyone, an attacker with the watcher's keys, or a compromised watcher.
    pub by: u8,
}

impl<'a> Step<'a> {
    /// Reads one step from an input.
    pub fn read(reader: &mut Reader<'a>) -> Option<Self> {
        Some(match reader.u8()? % 6 {
            0 => {
                let source = reader.u8()?;
                let length = usize::from(reader.u16()?).min(reader.rest().len());
                Self::Raw(source, reader.take(length)?)
            }
            1 => Self::Knock(reader.u8()?, Sealed::read(reader)?),
            2 => {
                let source = reader.u8()?;
                let (which, at) = (reader.u8()?, reader.u16()?);
                Self::Copy(source, Copied { which, at, flip: reader.u8()?, by: reader.u8()? })
            }
            3 => Self::Pass(reader.u32()?.cast_signed(), reader.u16()?),
            4 => Self::Restart(reader.u8()?),
            _ => Self::Reload(reader.u8()?),
        })
    }

    /// Appends the step to an input.
    pub fn write(&self, input: &mut Vec<u8>) {
        match *self {
            Self::Raw(source, bytes) => {
                input.extend([0, source]);
                input.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
                input.extend(bytes);
            }
            Self::Knock(source, sealed) => {
                input.extend([1, source]);
                sealed.write(input);
            }
            Self::Copy(source, Copied { which, at, flip, by }) => {
                input.extend([2, source, which]);
                input.extend(at.to_be_bytes());
                input.extend([flip, by]);
            }
            Self::Pass(wall, steady) => {
                input.push(3);
                input.extend(wall.to_be_bytes());
                input.extend(steady.to_be_bytes());
            }
            Self::Restart(lost) => input.extend([4, lost]),
            Self::Reload(rules) => input.extend([5, rules]),
        }
    }
}

impl<'a> Sealed<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            nonce: reader.u8()?,
            skew: reader.u32()?.cast_signed(),
            off: reader.u8()?.cast_signed(),
            padding: reader.u8()?,
            version: reader.u8()?,
            flags: reader.u8()?,
            rest: reader.prefixed()?,
        })
    }

    fn write(&self, input: &mut Vec<u8>) {
        input.push(self.nonce);
        input.extend(self.skew.to_be_bytes());
        input.extend([self.off.cast_unsigned(), self.padding, self.version, self.flags]);
        input.push(u8::try_from(self.rest.len()).unwrap_or(u8::MAX));
        input.extend(self.rest);
    }

    /// The body before encryption.
    #[must_use]
    pub fn body(&self, now: Timestamp) -> Vec<u8> {
        let length = BODY_MIN + usize::from(self.padding % 64);
        let mut body = vec![self.version, self.flags];
        body.extend(self.time(now).to_be_bytes());
        body.extend(self.rest.iter().take(length - BODY_REST));
        body.resize(length, 0);
        body
    }

    /// The datagram with this body.
    #[must_use]
    pub fn datagram(&self, now: Timestamp) -> Vec<u8> {
        let keys = site::client();
        let epoch = Timestamp::from_millis(self.time(now)).epoch();
        let hint = hint(&keys.hint, epoch.saturating_add_signed(self.off.into()));
        let nonce = [self.nonce; 12];
        let mut body = self.body(now);
        keys.seal.seal(&nonce, &hint, &mut body).expect("encryption of so few bytes");
        let mut datagram = [hint.as_slice(), &nonce, &body].concat();
        datagram.extend(keys.sign.tag(&[&datagram]));
        datagram
    }

    fn time(&self, now: Timestamp) -> u64 {
        now.as_millis().saturating_add_signed(self.skew.into())
    }
}
