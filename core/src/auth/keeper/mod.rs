//! Steps 4 to 8, in this order. Step 9, acting, is up to the caller: it gets an `Authorized` and reports the outcome,
//! which leads to a reply (10) and an audit record (11), as every refusal does.

mod admission;
pub(super) mod audit_dedup;
pub(super) mod authorization;
pub(super) mod authorized;
pub(super) mod effects;
pub(super) mod fido_counters;
pub(super) mod fresh;
pub(super) mod last_sources;
pub(super) mod live_hints;
pub(super) mod otp;
pub(super) mod proof;
pub(super) mod replay;
mod replies;
pub(super) mod reply_cache;
pub(super) mod signature;
mod use_counters;
pub(super) mod uses;

mod verdict;

pub use verdict::{Accepted, Decision, Judgment, Outcome, PendingReply, Refusal, Uncommitted};

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::Authentic;
use super::policy::rate::{Rate, RecentActs};
use super::policy::{ClientKey, KeyAge, Policy};
use super::record::Via;
use super::rejection::Rejection;
use crate::crypto::{DecryptionFailed, Fingerprint};
use crate::knock::{ClientName, Now, ReplyWanted, Timestamp};
use audit_dedup::AuditDedup;
use authorization::{Authorization, ClientUsage};
use authorized::{Authorized, KnockContext};
use effects::Effect;
use fresh::{Decrypted, Fresh};
use otp::{CODE_ID, OtpAttempts, OtpError, OtpPause};
use proof::PortSequence;
use replay::{Acceptance, AlreadyAccepted, ReplayDomain, ReplayMemory};
use reply_cache::ReplyCache;
use signature::VerificationBudget;
use uses::UseCounts;

/// Maximum rate of sequences that are checked: twice what an honest watcher passes on. A compromised watcher could
/// guess proofs.
const SEQUENCES: Rate = Rate::a_second(2_000);

/// The keeper's state.
pub struct Keeper {
    policy: Policy,
    indices: HashMap<Fingerprint, usize>,
    replay: ReplayMemory,
    /// By client name, so that a second key gives a client no additional acts.
    recent: HashMap<ClientName, RecentActs>,
    attempts: HashMap<ClientName, OtpAttempts>,
    uses: UseCounts,
    /// How often each client's previous key was used in a knock that was not refused.
    previous_uses: HashMap<ClientName, u64>,
    replies: ReplyCache,
    audited: AuditDedup,
    sequences: RecentActs,
    verifications: VerificationBudget,
}

impl Keeper {
    /// A keeper with this policy and this replay memory.
    #[must_use]
    pub fn new(policy: Policy, replay: ReplayMemory) -> Self {
        let mut keeper = Self {
            policy,
            indices: HashMap::new(),
            replay,
            recent: HashMap::new(),
            attempts: HashMap::new(),
            uses: UseCounts::default(),
            previous_uses: HashMap::new(),
            replies: ReplyCache::default(),
            audited: AuditDedup::default(),
            sequences: RecentActs::default(),
            verifications: VerificationBudget::default(),
        };
        keeper.index();
        keeper.restore_sources();
        keeper
    }

    /// Restores the use counts.
    #[must_use]
    pub fn with_uses(mut self, uses: UseCounts) -> Self {
        self.uses = uses;
        self.index();
        self
    }

    /// Restores the one-time password pauses of an earlier daemon.
    #[must_use]
    pub fn with_otp_pauses(mut self, pauses: &BTreeMap<ClientName, OtpPause>, now: Now) -> Self {
        let resumed = pauses.iter().map(|(name, pause)| (name.clone(), OtpAttempts::resume(*pause, now)));
        self.attempts = resumed.collect();
        self.index();
        self
    }

    /// The one-time password pauses by client, which must survive a restart of the daemon.
    #[must_use]
    pub fn otp_pauses(&self, now: Now) -> BTreeMap<ClientName, OtpPause> {
        self.attempts
            .iter()
            .filter_map(|(name, attempts)| Some((name.clone(), attempts.pause(now)?)))
            .collect()
    }

    /// Replaces the policy. Accepted knocks stay refused, also those of removed clients.
    pub fn replace_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.index();
    }

    fn index(&mut self) {
        let clients = self.policy.clients.iter().enumerate();
        self.indices = clients.map(|(index, client)| (client.fingerprint, index)).collect();
        let seeds: HashSet<_> = self
            .policy
            .clients
            .iter()
            .filter_map(|client| Some(client.otp.as_ref()?.fingerprint()))
            .collect();
        self.replay.keep_only(|key| self.indices.contains_key(&key) || seeds.contains(&key));
        let known: BTreeSet<_> = self.policy.clients.iter().map(|client| &client.name).collect();
        self.uses.keep_only(&known);
        self.attempts.retain(|name, _| known.contains(name));
        self.recent.retain(|name, _| known.contains(name));
        self.previous_uses.retain(|name, _| known.contains(name));
        self.verifications.keep_only(|name| known.contains(name));
    }

    /// Steps 4 to 7 for a datagram that came from `source`.
    pub fn judge(&mut self, knock: &Authentic<'_>, source: SocketAddr, now: Now) -> Judgment {
        let fingerprint = knock.fingerprint();
        let Some(index) = self.indices.get(&fingerprint).copied() else {
            return Judgment::Refuse(Refusal { rejection: Rejection::UnknownKey, record: None, reply: None });
        };
        let Some(client) = self.policy.clients.get(index) else { return Judgment::Ignore };

        // Step 4: decryption.
        let opened = match Decrypted::open(knock, client) {
            Ok(opened) => opened,
            Err(DecryptionFailed) => {
                return Judgment::Refuse(Refusal {
                    rejection: Rejection::DecryptionFailed,
                    record: None,
                    reply: None,
                });
            }
        };
        let mut context = KnockContext {
            client: client.name.clone(),
            key: client.age,
            fingerprint,
            id: *opened.id(),
            via: Via::Udp,
            source,
            reply: ReplyWanted::No,
            action: None,
            addresses: vec![source.ip()],
            seconds: 0,
            timestamp: Timestamp::default(),
            is_exact: false,
            claim: None,
        };
        // Step 5: the timestamp.
        let fresh = match opened.check_time(now.wall, self.policy.window) {
            Ok(fresh) => fresh,
            Err(skew) => return Judgment::Refuse(self.refuse(&context, Rejection::Stale(skew), now)),
        };
        context.reply = fresh.reply();
        // Step 6: replay, signature and address.
        if let Some(judgment) = self.check_new(&fresh, &context, now) {
            return judgment;
        }
        let fresh = match self.check_signature(fresh, index, source.ip(), now) {
            Ok(verified) => Fresh::Datagram(verified),
            Err(rejection) => return Judgment::Refuse(self.refuse(&context, rejection, now)),
        };
        if let Some(judgment) = self.check_address(&fresh, &context, now) {
            return judgment;
        }
        if !self.has_room(index, now) {
            return Judgment::Throttle;
        }
        // Step 7: the knock is consumed.
        self.accept(fresh, context, now).into()
    }

    /// Steps 5 to 7 for a port sequence. Returns one result for each action that the ports prove and that has not been
    /// accepted before; none if the ports prove nothing.
    pub fn judge_sequence(&mut self, sequence: &PortSequence, now: Now) -> Vec<Result<Accepted, Refusal>> {
        let fingerprint = sequence.fingerprint;
        if !self.sequences.admit(SEQUENCES, now.steady) {
            return Vec::new();
        }
        let (Some(client), Some(knock_range)) = (self.client(fingerprint), self.policy.knock_range) else {
            return Vec::new();
        };
        let (name, age) = (client.name.clone(), client.age);
        let proven = sequence.prove(client, knock_range, now.wall);
        let mut results = Vec::new();
        for fresh in proven.into_iter().map(Fresh::Ports) {
            // The client sends each port three times, so the same proof is found repeatedly.
            if self.replay.knows(fingerprint, fresh.replay_domain(), fresh.id()) {
                continue;
            }
            let context = KnockContext {
                client: name.clone(),
                key: age,
                fingerprint,
                id: *fresh.id(),
                via: Via::Ports,
                source: sequence.source,
                reply: ReplyWanted::No,
                action: fresh.understand().ok().map(|knock| knock.action.clone()),
                addresses: vec![sequence.source.ip()],
                seconds: 0,
                timestamp: Timestamp::default(),
                is_exact: false,
                claim: None,
            };
            results.push(self.accept(fresh, context, now));
        }
        results
    }

    /// Step 7: consumes the knock, whatever the later steps decide.
    #[expect(clippy::result_large_err, reason = "neither is moved far, and both variants are large")]
    fn accept(&mut self, fresh: Fresh, mut context: KnockContext, now: Now) -> Result<Accepted, Refusal> {
        context.timestamp = fresh.timestamp();
        let (key, domain, window) = (context.fingerprint, fresh.replay_domain(), self.policy.window);
        match self.replay.accept(key, domain, fresh.timestamp(), *fresh.id(), window) {
            Ok(mut acceptance) => {
                if let Some(counter) = fresh.counter() {
                    self.replay.store_counter(&mut acceptance, counter);
                }
                Ok(Accepted { fresh, context, acceptance })
            }
            Err(AlreadyAccepted) => Err(self.refuse(&context, Rejection::Replayed, now)),
        }
    }

    /// Step 8, for a knock that is on record: whether the client is allowed to do what it requests.
    pub fn decide(&mut self, accepted: Accepted, now: Now) -> Decision {
        let Accepted { fresh, mut context, .. } = accepted;
        let consumed = self
            .allow(&fresh, &mut context, now)
            .and_then(|authorization| self.consume(&context.client, authorization));
        let (effects, code, counted) = match consumed {
            Ok(consumed) => consumed,
            Err(rejection) => return Decision::Refuse(self.refuse(&context, rejection, now)),
        };
        self.note_source(&context, fresh.timestamp());
        if context.key == KeyAge::Previous {
            let uses = self.previous_uses.entry(context.client.clone()).or_default();
            *uses = uses.saturating_add(1);
        }
        let authorized = Authorized::new(context, effects);
        if code.is_none() && !counted {
            Decision::Execute(authorized)
        } else {
            Decision::Commit(Uncommitted { authorized, code, counted })
        }
    }

    /// Consumes the one-time password and the use of an authorized knock in memory. It may be executed once both are on
    /// disk. Returns the effects, the acceptance of the password, and whether a use was counted.
    fn consume(
        &mut self,
        client: &ClientName,
        Authorization { effects, code, counted }: Authorization,
    ) -> Result<(Vec<Effect>, Option<Acceptance>, bool), Rejection> {
        let window = self.policy.window;
        let accept = |(seed, step)| self.replay.accept(seed, ReplayDomain::Codes, step, CODE_ID, window);
        let code = code.map(accept).transpose();
        let code = code.map_err(|AlreadyAccepted| Rejection::Otp(OtpError::Reused))?;
        if counted {
            self.uses.count(client);
        }
        Ok((effects, code, counted))
    }

    /// The client that the key belongs to.
    #[must_use]
    pub fn name_of(&self, key: Fingerprint) -> Option<&ClientName> {
        self.client(key).map(|client| &client.name)
    }

    /// Sets the current addresses of this host.
    pub fn set_own_addresses(&mut self, own: BTreeSet<IpAddr>) {
        self.policy.own_addresses = own;
    }

    /// The replay memory.
    #[must_use]
    pub const fn replay(&self) -> &ReplayMemory {
        &self.replay
    }

    fn allow(
        &mut self,
        fresh: &Fresh,
        context: &mut KnockContext,
        now: Now,
    ) -> Result<Authorization, Rejection> {
        let index = self.indices.get(&context.fingerprint).ok_or(Rejection::UnknownKey)?;
        let client = self.policy.clients.get(*index).ok_or(Rejection::UnknownKey)?;
        let recent = self.recent.entry(client.name.clone()).or_default();
        let usage = ClientUsage {
            recent,
            attempts: self.attempts.entry(client.name.clone()).or_default(),
            used: self.uses.of(&client.name),
            replay: &self.replay,
        };
        authorization::decide(&self.policy, client, fresh, context, usage, now)
    }

    fn client(&self, fingerprint: Fingerprint) -> Option<&ClientKey> {
        self.policy.clients.get(*self.indices.get(&fingerprint)?)
    }
}
