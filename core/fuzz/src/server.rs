//! A server that executes a script, from the bytes of a datagram to its reply. For any events in any order: what the
//! client did not sign passes no watcher; what it did not encrypt is neither recorded nor acted on; no knock acts
//! twice, whatever happens to clocks, config and daemon; and every effect is what policy and knock allow.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use spa_knock_core::auth::{
    Acceptance, Authentic, Authorized, Decision, Judgment, Keeper, PendingReply, Refusal, ReplayMemory,
    Watcher,
};
use spa_knock_core::crypto::Nonce;
use spa_knock_core::knock::{Now, ReplyWanted, Timestamp};
use spa_knock_core::wire::{Body, Envelope, REPLY_LEN, Reader, open_reply};

use crate::oracle;
use crate::script::{Copied, Sealed, Step};
use crate::site::{self, Rules, SOURCES};

const STEPS_MAX: usize = 64;
/// How often one knock gets a reply in total.
const REPLIES_MAX: u8 = 4;

/// The parts around the checks: the path from the watcher to the keeper, and the record of accepted knocks.
pub trait Surroundings {
    /// A new record for a keeper that starts with this memory.
    fn begin(memory: &ReplayMemory) -> Self;

    /// Records an acceptance.
    fn append(&mut self, acceptance: &Acceptance);

    /// The memory after a restart, if a kill has lost the last `lost` bytes or records. `lease` is the time up to which
    /// knocks may have been accepted.
    fn restart(&mut self, lost: usize, lease: Timestamp) -> ReplayMemory;

    /// Passes a knock to the keeper.
    fn relay(knock: &Authentic<'_>, source: SocketAddr, judge: impl FnOnce(&Authentic<'_>));
}

/// Runs a script to its end.
pub fn run<S: Surroundings>(script: &[u8]) {
    let mut reader = Reader::new(script);
    let mut server = Server::<S>::new();
    for _ in 0..STEPS_MAX {
        let Some(step) = Step::read(&mut reader) else { return };
        server.take(&step);
    }
}

struct Server<S> {
    watcher: Watcher,
    keeper: Keeper,
    rules: Rules,
    around: S,
    /// The time up to which knocks may have been accepted.
    lease: Timestamp,
    now: Now,
    /// The datagrams that the client created, with their bodies.
    made: Vec<(Vec<u8>, Vec<u8>)>,
    /// Every datagram with a valid tag.
    signed: HashSet<Vec<u8>>,
    /// The consumed knocks, each as the bytes that its tag covers.
    recorded: HashSet<Vec<u8>>,
    /// The cached replies, and how often each was sent.
    replies: HashMap<(Nonce, SocketAddr), (Vec<u8>, u8)>,
    nonces: u64,
}

impl<S: Surroundings> Server<S> {
    fn new() -> Self {
        let (rules, memory) = (Rules::Wide, site::memory());
        Self {
            watcher: rules.watcher(),
            around: S::begin(&memory),
            lease: memory.highest(),
            keeper: Keeper::new(rules.policy(), memory),
            rules,
            now: site::NOW,
            made: Vec::new(),
            signed: HashSet::new(),
            recorded: HashSet::new(),
            replies: HashMap::new(),
            nonces: 0,
        }
    }

    fn take(&mut self, step: &Step<'_>) {
        match step {
            Step::Raw(source, bytes) => self.send(bytes, address(*source)),
            Step::Knock(source, sealed) => self.knock(sealed, address(*source)),
            Step::Copy(source, copied) => self.copy(copied, address(*source)),
            Step::Pass(wall, steady) => {
                let wall = self.now.wall.as_millis().saturating_add_signed((*wall).into());
                self.now.wall = Timestamp::from_millis(wall);
                self.now.steady = self.now.steady.plus(Duration::from_millis((*steady).into()));
                self.watcher.prepare(self.now.wall);
            }
            Step::Restart(lost) => self.restart((*lost).into()),
            Step::Reload(number) => {
                self.rules = Rules::of(*number);
                self.rules.apply_to(&mut self.watcher);
                self.keeper.replace_policy(self.rules.policy());
            }
        }
    }

    fn knock(&mut self, sealed: &Sealed<'_>, source: SocketAddr) {
        let datagram = sealed.datagram(self.now.wall);
        self.made.push((datagram.clone(), sealed.body(self.now.wall)));
        self.signed.insert(datagram.clone());
        self.send(&datagram, source);
    }

    fn copy(&mut self, copied: &Copied, source: SocketAddr) {
        let Some(which) = usize::from(copied.which).checked_rem(self.made.len()) else { return };
        let mut datagram = self.made[which].0.clone();
        let at = usize::from(copied.at) % datagram.len();
        datagram[at] ^= copied.flip;
        match copied.by % 3 {
            // An unauthenticated sender.
            0 => self.send(&datagram, source),
            // An attacker with the watcher's keys.
            1 => {
                let signed = datagram.len() - 32;
                let tag = site::client().sign.tag(&[&datagram[..signed]]);
                datagram[signed..].copy_from_slice(&tag);
                self.signed.insert(datagram.clone());
                self.send(&datagram, source);
            }
            // A compromised watcher.
            _ => {
                let knock = Authentic::from_watcher(site::keys().fingerprint, &datagram);
                self.judge(&knock.expect("as long as a knock"), source);
            }
        }
    }

    /// Kills the daemon and starts it again with what is left of the record.
    fn restart(&mut self, lost: usize) {
        let memory = self.around.restart(lost, self.lease);
        self.lease = self.lease.max(memory.highest());
        self.around = S::begin(&memory);
        self.keeper = Keeper::new(self.rules.policy(), memory);
        self.watcher = self.rules.watcher();
        self.replies.clear();
    }

    /// Steps 2 and 3.
    fn send(&mut self, datagram: &[u8], source: SocketAddr) {
        if let Ok(knock) = self.watcher.judge(datagram, self.now) {
            assert!(self.signed.contains(datagram), "passed on without a valid tag");
            self.judge(&knock, source);
        }
    }

    /// Steps 4 to 11.
    fn judge(&mut self, knock: &Authentic<'_>, source: SocketAddr) {
        S::relay(knock, source, |knock| self.decide(knock, source));
    }

    fn decide(&mut self, knock: &Authentic<'_>, source: SocketAddr) {
        let envelope = *knock.envelope();
        let body = self.body(envelope.signed);
        match self.keeper.judge(knock, source, self.now) {
            Judgment::Record(accepted) => {
                let body = body.expect("recorded without a valid body");
                assert!(self.recorded.insert(envelope.signed.to_vec()), "recorded twice");
                self.lease = self.lease.max(accepted.acceptance().timestamp);
                self.around.append(accepted.acceptance());
                match self.keeper.decide(accepted, self.now) {
                    Decision::Execute(authorized) => self.act(&authorized, &body, &envelope, source),
                    Decision::Refuse(refusal) => self.refuse(refusal, &envelope, source),
                    // No client here has a limit on its uses or one-time passwords.
                    Decision::Commit(_) => panic!("neither executed nor refused"),
                }
            }
            Judgment::Resend(bytes) => {
                let kept = self.replies.get_mut(&(*envelope.nonce, source)).expect("a cached reply");
                kept.1 += 1;
                assert!(bytes == kept.0 && kept.1 <= REPLIES_MAX && body.is_some());
            }
            Judgment::Refuse(refusal) => {
                assert!(body.is_some() || refusal.record.is_none() && refusal.reply.is_none());
                self.refuse(refusal, &envelope, source);
            }
            Judgment::Throttle => panic!("no client here signs with an SSH key"),
            Judgment::Ignore => assert!(body.is_some()),
        }
    }

    /// The body of a datagram, if the client created it.
    fn body(&self, signed: &[u8]) -> Option<Vec<u8>> {
        let made = self.made.iter().find(|(datagram, _)| datagram.starts_with(signed));
        made.map(|(_, body)| body.clone())
    }

    fn act(&mut self, authorized: &Authorized, body: &[u8], envelope: &Envelope<'_>, source: SocketAddr) {
        let body = Body::read(body).expect("a body");
        let knock = body.understand().expect("executed, but not understood");
        let outcome =
            oracle::check_effects(authorized, knock, self.rules.known(), source.ip(), self.now.wall);
        let wanted = self.rules.known().reply && knock.reply == ReplyWanted::Yes;
        let (_, reply) = self.keeper.conclude(authorized.context(), outcome, "", self.now);
        assert_eq!(reply.is_some(), wanted);
        self.reply(reply, envelope, source);
    }

    fn refuse(&mut self, refusal: Refusal, envelope: &Envelope<'_>, source: SocketAddr) {
        assert!(refusal.reply.is_none() || self.rules.known().reply && refusal.rejection.status().is_some());
        self.reply(refusal.reply, envelope, source);
    }

    /// Seals a reply. It can be decrypted by the client that knocked, and is no longer than its knock.
    fn reply(&mut self, reply: Option<PendingReply>, envelope: &Envelope<'_>, source: SocketAddr) {
        let Some(reply) = reply else { return };
        self.nonces += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.nonces.to_be_bytes());
        let bytes = self.keeper.seal(reply, &nonce, self.now).expect("a configured client");
        assert!(bytes.len() == REPLY_LEN && bytes.len() <= envelope.signed.len());
        let reply = open_reply(&bytes, &site::client().reply, envelope.nonce)
            .expect("a reply that the client can decrypt");
        assert_eq!(SocketAddr::new(reply.observed, reply.port), source);
        self.replies.insert((*envelope.nonce, source), (bytes, 1));
    }
}

fn address(number: u8) -> SocketAddr {
    SOURCES[usize::from(number) % SOURCES.len()].parse().expect("an address")
}
