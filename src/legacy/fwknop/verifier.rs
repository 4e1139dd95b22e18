//! Decides about packets: decrypts them, remembers those that it has accepted, and asks their stanza what it permits.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::allowance::Allowance;
use super::ipc::ArrivedPacket;
use super::settings::{FwknopConfig, LoadedStanza};
use spa_knock_core::auth::{
    Acceptance, AuditCause, AuditEvent, Explanation, Reason, ReplayDomain, ReplayMemory,
};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ActionName, Now, Timestamp};
use spa_knock_fwknop::{Arrival, Denial, Message, Rights, ServerSettings, WireText};

/// New packets per second, and in a burst, that each pair of keys may use, also if the watcher does not limit them.
const PACKETS: u32 = 4;
const PACKETS_BURST: u32 = 128;

/// The stanzas, and what has been accepted.
pub(super) struct Verifier {
    config: Rc<FwknopConfig>,
    limits: HashMap<Fingerprint, Allowance>,
    window: Duration,
    memory: ReplayMemory,
}

/// The decision about one packet.
pub(super) struct PacketJudgment {
    /// Must be recorded before the packet acts.
    pub(super) acceptance: Option<Acceptance>,
    /// The name of the stanza that decides, if any; what it permits, or why not.
    pub(super) result: Result<PermittedPacket, RefusedPacket>,
}

/// A packet that a stanza permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PermittedPacket {
    /// The stanza's name.
    pub(super) action: ActionName,
    /// The position of the stanza.
    pub(super) position: usize,
    /// What it permits.
    pub(super) rights: Rights,
    /// Where the packet came from.
    pub(super) source: SocketAddr,
    /// The address that gets access.
    pub(super) address: IpAddr,
}

/// A packet that no stanza permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefusedPacket {
    /// The stanza's name; none if no stanza has authenticated the packet.
    pub(super) action: Option<ActionName>,
    /// Where the packet came from.
    pub(super) source: SocketAddr,
    /// `Refused`, `Stale` or `Replayed`.
    pub(super) event: AuditEvent,
    /// The reason.
    pub(super) reason: Explanation,
}

impl Verifier {
    /// Replaces the config; what has been accepted stays known.
    pub(super) fn new(config: Rc<FwknopConfig>, mut memory: ReplayMemory) -> Self {
        memory.keep_only(|keys| config.stanzas.iter().any(|loaded| loaded.keys == keys));
        Self { window: config.window(), config, limits: HashMap::new(), memory }
    }

    /// Gives up the config, and returns what has been accepted.
    pub(super) fn into_memory(self) -> ReplayMemory {
        self.memory
    }

    /// What has been accepted.
    pub(super) const fn memory(&self) -> &ReplayMemory {
        &self.memory
    }

    /// From now on, refuses every packet made up to `time`.
    pub(super) fn refuse_until(&mut self, time: Timestamp) {
        self.memory.raise_floors(time);
    }

    /// How far ahead of the server's clock packets are accepted without delay.
    pub(super) fn ahead(&self) -> Duration {
        self.config.ahead()
    }

    /// The stanzas.
    pub(super) fn stanzas(&self) -> &[LoadedStanza] {
        &self.config.stanzas
    }

    /// Decides about a packet. `None` if no stanza authenticates it, which the watcher should have seen.
    pub(super) fn judge(&mut self, packet: &ArrivedPacket<'_>, now: Now) -> Option<PacketJudgment> {
        let text = WireText::parse(packet.text)?;
        let ArrivedPacket { source, destination, .. } = *packet;
        let arrival =
            Arrival { source: source.ip(), destination, time: now.wall.as_millis().wrapping_div(1_000) };
        let Self { config, limits, window, memory } = self;
        let FwknopConfig { server, stanzas, .. } = &**config;
        let (mut acceptance, mut refused) = (None, None);
        for (position, loaded) in stanzas.iter().enumerate() {
            let Some(sealed) = loaded.stanza.hmac_key.verify(text) else { continue };
            let refuse = |reason: Reason, detail: String| RefusedPacket {
                action: Some(loaded.name.clone()),
                source,
                event: reason.event(),
                reason: Explanation::new(AuditCause::Rejected(reason), detail),
            };
            let mut consider = || -> Result<PermittedPacket, RefusedPacket> {
                if loaded.expires.is_some_and(|end| end <= now.wall) {
                    return Err(refuse(Reason::Expired, "the stanza has expired".to_owned()));
                }
                let plain = loaded.stanza.key.open(sealed).ok_or_else(|| {
                    refuse(Reason::DecryptionFailed, "not encrypted with KEY in CBC mode".to_owned())
                })?;
                let message = Message::parse(&plain)
                    .map_err(|error| refuse(Reason::UnsupportedFormat, format!("not understood: {error}")))?;
                let timestamp = Timestamp::from_millis(message.time.saturating_mul(1_000));
                if acceptance.is_none() {
                    check_time(timestamp, now.wall, server, *window)
                        .map_err(|reason| refuse(Reason::Stale, reason))?;
                    let id = id_of(text);
                    let is_known =
                        memory.check(loaded.keys, ReplayDomain::Datagrams, timestamp, &id).is_err();
                    let limit = limits.entry(loaded.keys);
                    let limit = limit.or_insert_with(|| Allowance::new(PACKETS_BURST, PACKETS));
                    if !is_known && !limit.take(1, now.steady) {
                        return Err(RefusedPacket {
                            reason: Explanation::new(AuditCause::Throttled, "over the limit of its key"),
                            ..refuse(Reason::RateExceeded, String::new())
                        });
                    }
                    let accepted =
                        memory.accept(loaded.keys, ReplayDomain::Datagrams, timestamp, id, *window);
                    let replayed = "accepted before, or older than what is remembered";
                    acceptance = Some(accepted.map_err(|_| refuse(Reason::Replayed, replayed.to_owned()))?);
                }
                let rights = loaded.stanza.rights(server, &message, arrival);
                let rights = rights.map_err(|denial| refuse(reason_of(denial), denial.to_string()))?;
                let address = if message.allow.is_unspecified() { source.ip() } else { message.allow.into() };
                Ok(PermittedPacket { action: loaded.name.clone(), position, rights, source, address })
            };
            match consider() {
                Ok(permitted) => return Some(PacketJudgment { acceptance, result: Ok(permitted) }),
                // Different keys can have the same HMACs: RFC 2104 pads short ones and hashes long ones. No other stanza may
                // accept again what one stanza has accepted.
                Err(replay) if replay.event == AuditEvent::Replayed => {
                    return Some(PacketJudgment { acceptance, result: Err(replay) });
                }
                // The next stanza may have the same keys.
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        refused.map(|refused| PacketJudgment { acceptance, result: Err(refused) })
    }
}

/// Checks the packet's time before anything is remembered: a time far ahead would make later packets look old.
fn check_time(
    timestamp: Timestamp,
    now: Timestamp,
    server: &ServerSettings,
    window: Duration,
) -> Result<(), String> {
    let is_ahead = timestamp > now;
    let distance = timestamp.distance(now);
    if distance <= window || (server.age_max.is_none() && !is_ahead) {
        return Ok(());
    }
    let side = if is_ahead { "ahead of" } else { "behind" };
    Err(format!("the packet's time is {} s {side} this server's", distance.as_secs()))
}

/// Identifies a packet among those of its keys.
fn id_of(text: WireText<'_>) -> [u8; 12] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = text.identity();
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

const fn reason_of(denial: Denial) -> Reason {
    match denial {
        Denial::Age => Reason::Stale,
        Denial::Address => Reason::NoAddressListed,
        Denial::HostName | Denial::ForwardV6 | Denial::ForwardOther | Denial::Forwarding => {
            Reason::NoForwardTarget
        }
        Denial::Source
        | Denial::Destination
        | Denial::User
        | Denial::OpenPorts
        | Denial::RestrictPorts
        | Denial::Command => Reason::NotAllowed,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test")]
mod tests;
