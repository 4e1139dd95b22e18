//! The naive model: it keeps everything that has happened, and derives each verdict from that and the texts of the config.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use spa_knock_core::auth::Reason;
use spa_knock_core::crypto::{Fingerprint, Nonce, OtpSeed, OtpStep};
use spa_knock_core::knock::{AddressPolicy, Knock, Now, ReplyStatus, ReplyWanted, Steady, Timestamp};

use super::actions::{ACTIONS, PartText};
use super::effects::{NaiveEffect, Request, is_of_another_host, takes_argument};
use super::scene::{Scene, Sender, Signer};

/// What the keeper must decide about a knock.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It has a reply with this status, which is sent again.
    Resend(ReplyStatus),
    /// Nothing happens.
    Ignore,
    /// It is refused, with or without being recorded.
    Refused { consumed: bool, reason: Reason },
    /// It has these effects, for so many seconds; `commits` if a use or a one-time password must be on disk before.
    Acts { effects: Vec<NaiveEffect>, seconds: u32, commits: bool },
}

/// A knock that arrives.
pub(super) struct KnockArrival<'a> {
    pub(super) knock: &'a Knock,
    pub(super) nonce: &'a Nonce,
    pub(super) signer: Signer,
    pub(super) source: SocketAddr,
}

/// Everything that has happened.
pub(super) struct NaiveKeeper {
    start: Timestamp,
    /// By key, oldest first.
    memory: HashMap<Sender, Vec<Moment>>,
    replies: Vec<SentReply>,
    /// When each client acted, if it has a rate.
    acts: HashMap<usize, Vec<Steady>>,
    uses: HashMap<usize, u64>,
    codes: HashMap<usize, CodeAttempts>,
    /// The start of the time step of the last code of each seed.
    last_codes: HashMap<Fingerprint, Timestamp>,
}

/// What has happened to the memory of a key.
enum Moment {
    Accepted(Timestamp, Nonce),
    /// The key was removed from the config.
    Removal,
}

struct SentReply {
    knock: (Sender, Nonce),
    source: SocketAddr,
    first: Steady,
    times: u8,
    status: ReplyStatus,
}

#[derive(Default)]
struct CodeAttempts {
    wrong: u32,
    pauses: u32,
    until: Option<Steady>,
}

impl NaiveKeeper {
    pub(super) fn new(start: Timestamp) -> Self {
        Self {
            start,
            memory: HashMap::new(),
            replies: Vec::new(),
            acts: HashMap::new(),
            uses: HashMap::new(),
            codes: HashMap::new(),
            last_codes: HashMap::new(),
        }
    }

    /// A restart forgets what is not on disk.
    pub(super) fn restart(&mut self) {
        self.replies.clear();
        self.acts.clear();
        self.codes.retain(|_, attempts| {
            attempts.wrong = 0;
            attempts.pauses > 0
        });
    }

    /// A reload forgets clients that are gone, except what they have used up.
    pub(super) fn keep_only(&mut self, scene: &Scene) {
        for (sender, moments) in &mut self.memory {
            if !scene.is_present(*sender) {
                moments.push(Moment::Removal);
            }
        }
        self.acts.retain(|client, _| scene.has_client(*client));
        self.uses.retain(|client, _| scene.has_client(*client));
        self.codes.retain(|client, _| scene.has_client(*client));
    }

    /// The floor of a key.
    pub(super) fn floor(&self, scene: &Scene, sender: Sender) -> Timestamp {
        let (mut floor, mut high) = (self.start, self.start);
        for moment in self.memory.get(&sender).into_iter().flatten() {
            match moment {
                Moment::Accepted(timestamp, _) => {
                    high = high.max(*timestamp);
                    floor = floor.max(high.minus(scene.window * 2));
                }
                Moment::Removal => floor = floor.max(high),
            }
        }
        floor
    }

    /// Decides about a knock.
    pub(super) fn judge(
        &mut self,
        scene: &Scene,
        sender: Sender,
        arrival: &KnockArrival<'_>,
        now: Now,
    ) -> Verdict {
        let KnockArrival { knock, nonce, signer, source } = *arrival;
        let refused = |consumed, reason| Verdict::Refused { consumed, reason };
        if !scene.is_present(sender) {
            return refused(false, Reason::UnknownKey);
        }
        if knock.timestamp.as_millis().abs_diff(now.wall.as_millis()) > scene.window.as_millis() as u64 {
            return refused(false, Reason::Stale);
        }
        let is_same = |sent: &&mut SentReply| {
            sent.knock == (sender, *nonce)
                && sent.source == source
                && now.steady.since(sent.first) < Duration::from_secs(10)
        };
        if let Some(sent) = self.replies.iter_mut().find(is_same) {
            sent.times += 1;
            return if sent.times <= 4 { Verdict::Resend(sent.status) } else { Verdict::Ignore };
        }
        let floor = self.floor(scene, sender);
        let accepted = |moment: &Moment| matches!(moment, Moment::Accepted(timestamp, id) if id == nonce && *timestamp > floor);
        if knock.timestamp <= floor
            || self.memory.get(&sender).is_some_and(|moments| moments.iter().any(accepted))
        {
            return refused(false, Reason::Replayed);
        }
        let own = match source.ip() {
            IpAddr::V4(_) => knock.ipv4.map(IpAddr::from),
            IpAddr::V6(_) => knock.ipv6.map(IpAddr::from),
        };
        if scene.clients[sender.client].is_signed && signer == Signer::Thief {
            // Its reply is not one that a resend gets.
            return refused(false, Reason::Signature);
        }
        let verdict = if knock.policy == AddressPolicy::Exact && own != Some(source.ip()) {
            refused(false, Reason::AddressMismatch)
        } else {
            self.memory.entry(sender).or_default().push(Moment::Accepted(knock.timestamp, *nonce));
            self.decide(scene, sender, knock, source, now).unwrap_or_else(|reason| refused(true, reason))
        };
        if scene.reply && knock.reply == ReplyWanted::Yes {
            let status = match &verdict {
                Verdict::Refused { reason, .. } => status(*reason),
                _ => ReplyStatus::Granted,
            };
            let sent = SentReply { knock: (sender, *nonce), source, first: now.steady, times: 1, status };
            self.replies.push(sent);
        }
        verdict
    }

    /// Step 8.
    fn decide(
        &mut self,
        scene: &Scene,
        sender: Sender,
        knock: &Knock,
        source: SocketAddr,
        now: Now,
    ) -> Result<Verdict, Reason> {
        let client = &scene.clients[sender.client];
        let place = ACTIONS.iter().position(|text| text.name == knock.action.as_str());
        let place = place.ok_or(Reason::UnknownAction)?;
        let action = &ACTIONS[place];
        check(client.allow & 1 << place != 0, Reason::NotAllowed)?;
        check(client.allows_policy(knock.policy), Reason::PolicyNotAllowed)?;
        let addresses: Vec<IpAddr> = if knock.policy == AddressPolicy::Listed {
            knock.ipv4.map(IpAddr::from).into_iter().chain(knock.ipv6.map(IpAddr::from)).collect()
        } else {
            vec![source.ip()]
        };
        check(!addresses.is_empty(), Reason::NoAddressListed)?;
        let opens =
            action.parts.iter().any(|part| !matches!(part, PartText::Close(_) | PartText::Run { .. }));
        check(
            !opens || addresses.iter().all(|address| is_of_another_host(*address)),
            Reason::UnusableAddress,
        )?;
        check(takes_argument(action, knock.argument.as_str()), Reason::Argument)?;
        check(client.expires.is_none_or(|expires| now.wall < expires), Reason::Expired)?;
        let seconds = action.term.map_or(0, |(usual, max)| match knock.seconds {
            0 => usual,
            seconds => seconds.min(max),
        });
        let request =
            Request { name: scene.name(sender), client, knock, source, addresses: &addresses, seconds };
        let effects = request.effects(action)?;
        let code = match &client.seed {
            Some(seed) => Some((seed.fingerprint(), self.check_code(sender.client, seed, knock.otp, now)?)),
            None => None,
        };
        let used = self.uses.get(&sender.client).copied().unwrap_or(0);
        check(client.uses.is_none_or(|uses| used < uses), Reason::UsesExhausted)?;
        if let Some((count, seconds)) = client.rate {
            let acts = self.acts.entry(sender.client).or_default();
            let recent =
                acts.iter().filter(|act| now.steady.since(**act) < Duration::from_secs(seconds)).count();
            check(recent < usize::from(count), Reason::RateExceeded)?;
            acts.push(now.steady);
        }
        if client.uses.is_some() {
            self.uses.insert(sender.client, used + 1);
        }
        if let Some((seed, step)) = code {
            self.last_codes.insert(seed, step);
        }
        Ok(Verdict::Acts { effects, seconds, commits: code.is_some() || client.uses.is_some() })
    }

    /// The start of the time step of a code that is right and new.
    fn check_code(
        &mut self,
        client: usize,
        seed: &OtpSeed,
        code: Option<u32>,
        now: Now,
    ) -> Result<Timestamp, Reason> {
        let attempts = self.codes.entry(client).or_default();
        check(attempts.until.is_none_or(|until| until <= now.steady), Reason::OtpPaused)?;
        attempts.until = None;
        let code = code.ok_or(Reason::OtpMissing)?;
        let step = |offset: i64| OtpStep::of(now.wall).plus(offset);
        let last = self.last_codes.get(&seed.fingerprint()).copied().unwrap_or_default();
        let near: Vec<i64> = (-1..=1).filter(|offset| seed.code(step(*offset)) == code).collect();
        if let Some(offset) = near.iter().find(|offset| step(**offset).begin() > last) {
            *attempts = CodeAttempts::default();
            return Ok(step(*offset).begin());
        }
        check(near.is_empty(), Reason::OtpReused)?;
        attempts.wrong += 1;
        if attempts.wrong == 5 {
            let pauses = attempts.pauses + 1;
            let pause = Duration::from_secs((600 << (pauses - 1).min(20)).min(86_400));
            *attempts = CodeAttempts { wrong: 0, pauses, until: Some(now.steady.plus(pause)) };
        }
        // Only what is past is named.
        let is_past = (-20..0).any(|offset| seed.code(step(offset)) == code);
        Err(if is_past { Reason::OtpSkewed } else { Reason::OtpWrong })
    }
}

pub(super) fn check(is_right: bool, reason: Reason) -> Result<(), Reason> {
    if is_right { Ok(()) } else { Err(reason) }
}

/// The status of a reply to a knock that was refused for this reason (section 4 of the protocol).
fn status(reason: Reason) -> ReplyStatus {
    match reason {
        Reason::UnknownAction => ReplyStatus::UnknownAction,
        Reason::NotAllowed | Reason::PolicyNotAllowed => ReplyStatus::NotAllowed,
        Reason::AddressMismatch
        | Reason::NoAddressListed
        | Reason::UnusableAddress
        | Reason::LinkLocal
        | Reason::NoForwardTarget => ReplyStatus::AddressRefused,
        Reason::Argument => ReplyStatus::ArgumentRefused,
        Reason::OtpMissing | Reason::OtpWrong | Reason::OtpSkewed | Reason::OtpReused | Reason::OtpPaused => {
            ReplyStatus::OtpRefused
        }
        Reason::Expired | Reason::UsesExhausted | Reason::RateExceeded => ReplyStatus::Exhausted,
        reason => panic!("no reply has the reason {reason:?}"),
    }
}
