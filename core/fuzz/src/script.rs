//! What happens to a server, step by step: an input of the datagram target. All numbers are big-endian.

use spa_knock_core::knock::Timestamp;
use spa_knock_core::wire::{Reader, hint};

use crate::site;

/// Bytes of a body without random padding.
const BODY_MIN: usize = 160;
/// Where a body's time is followed by the rest.
const BODY_REST: usize = 10;

/// One step.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// These bytes come from a source.
    Raw(u8, &'a [u8]),
    /// The client seals, signs and sends a datagram.
    Knock(u8, Sealed<'a>),
    /// A datagram of the client comes once more, perhaps changed.
    Copy(u8, Copied),
    /// Time passes, in ms: on the calendar, which may jump, and on the steady clock.
    Pass(i32, u16),
    /// The daemon is killed, and so many bytes of its last write are lost.
    Restart(u8),
    /// The config is read anew.
    Reload(u8),
}

/// What the client puts into a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    /// The nonce's bytes, all alike.
    pub nonce: u8,
    /// How far its clock is ahead, in ms.
    pub skew: i32,
    /// How many minutes its hint is from its time.
    pub off: i8,
    /// Random padding.
    pub padding: u8,
    /// The body's version.
    pub version: u8,
    /// The body's flags.
    pub flags: u8,
    /// What follows the timestamp; what is missing is zeros.
    pub rest: &'a [u8],
}

/// Which of the client's datagrams comes again, and what is done to it.
#[derive(Debug, Clone, Copy)]
pub struct Copied {
    /// Its place among those that were made.
    pub which: u8,
    /// The byte that is changed.
    pub at: u16,
    /// The bits of it that are flipped.
    pub flip: u8,
    /// Who does that.
    pub by: u8,
}

impl<'a> Step<'a> {
    /// Takes one step off an input.
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

    /// Adds it to an input.
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

    /// The body, as it is before it is sealed.
    #[must_use]
    pub fn body(&self, now: Timestamp) -> Vec<u8> {
        let length = BODY_MIN + usize::from(self.padding % 64);
        let mut body = vec![self.version, self.flags];
        body.extend(self.time(now).to_be_bytes());
        body.extend(self.rest.iter().take(length - BODY_REST));
        body.resize(length, 0);
        body
    }

    /// The datagram of that body.
    #[must_use]
    pub fn datagram(&self, now: Timestamp) -> Vec<u8> {
        let keys = site::client();
        let epoch = Timestamp::from_millis(self.time(now)).epoch();
        let hint = hint(&keys.hint, epoch.saturating_add_signed(self.off.into()));
        let nonce = [self.nonce; 12];
        let mut body = self.body(now);
        keys.seal.seal(&nonce, &hint, &mut body).expect("so few bytes can be sealed");
        let mut datagram = [hint.as_slice(), &nonce, &body].concat();
        datagram.extend(keys.sign.tag(&[&datagram]));
        datagram
    }

    fn time(&self, now: Timestamp) -> u64 {
        now.as_millis().saturating_add_signed(self.skew.into())
    }
}
