//! Authentic clients against keeper and policy: an input describes an administrator's policy, several clients with their
//! limits, and what they send; all of it is well-formed. A naive model predicts the verdict of each knock: not only is
//! nothing done that is not allowed, but nothing is refused that is allowed, and for the right reason.

mod actions;
mod effects;
mod keys;
mod naive;
mod scene;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::Unstructured;
use spa_knock_core::auth::{
    Authentic, Decision, Judgment, Keeper, Outcome, PendingReply, Refusal, ReplayMemory, Watcher,
};
use spa_knock_core::knock::{Knock, Now, ReplyStatus, ReplyWanted};
use spa_knock_core::wire::{Datagram, Envelope, open_reply};

use naive::{KnockArrival, NaiveKeeper, Verdict};
use scene::{Scene, SceneStep, Sender, Signer};

use crate::site::NOW;

const STEPS_MAX: usize = 48;

/// Runs the scene that an input describes.
pub fn run(input: &[u8]) {
    let mut unread = Unstructured::new(input);
    let Ok(scene) = Scene::draw(&mut unread) else { return };
    let mut stage = Stage::new(scene);
    for _ in 0..STEPS_MAX {
        if unread.is_empty() {
            return;
        }
        let Ok(step) = SceneStep::draw(&mut unread, &stage.scene) else { return };
        stage.take(step);
    }
}

/// The server, the model beside it, and what the clients have sent.
struct Stage {
    scene: Scene,
    watcher: Watcher,
    keeper: Keeper,
    naive: NaiveKeeper,
    now: Now,
    sent: Vec<SentKnock>,
    /// Which of these have arrived.
    delivered: HashSet<usize>,
    nonces: u64,
}

/// A datagram of a client, or of a thief of its pair secret.
#[derive(Clone)]
struct SentKnock {
    sender: Sender,
    knock: Knock,
    datagram: Datagram,
    signer: Signer,
}

impl Stage {
    fn new(scene: Scene) -> Self {
        let memory = ReplayMemory::new(NOW.wall.minus(scene.memory_since()));
        Self {
            watcher: Watcher::new(scene.window, scene.watched_keys()),
            naive: NaiveKeeper::new(memory.floor()),
            keeper: Keeper::new(scene.policy(), memory),
            now: NOW,
            sent: Vec::new(),
            delivered: HashSet::new(),
            nonces: 0,
            scene,
        }
    }

    fn take(&mut self, step: SceneStep) {
        match step {
            SceneStep::Knock { sender, nonce, draft, source, signer } => {
                let knock = draft.knock(&self.scene, sender, self.now.wall);
                let datagram = self.scene.datagram(sender, &knock, nonce, signer);
                self.sent.push(SentKnock { sender, knock, datagram, signer });
                self.deliver(self.sent.len() - 1, source);
            }
            SceneStep::Copy { which, source } => {
                if let Some(which) = usize::from(which).checked_rem(self.sent.len()) {
                    self.deliver(which, source);
                }
            }
            SceneStep::Pass { wall, steady } => {
                self.now.wall = if wall < 0 {
                    self.now.wall.minus(Duration::from_millis(wall.unsigned_abs()))
                } else {
                    self.now.wall.plus(Duration::from_millis(wall.unsigned_abs()))
                };
                self.now.steady = self.now.steady.plus(Duration::from_millis(steady));
                self.watcher.prepare(self.now.wall);
            }
            SceneStep::Restart => {
                let pauses = self.keeper.otp_pauses(self.now);
                let (memory, uses) = (self.keeper.replay().clone(), self.keeper.uses().clone());
                self.keeper = Keeper::new(self.scene.policy(), memory)
                    .with_uses(uses)
                    .with_otp_pauses(&pauses, self.now);
                self.watcher = Watcher::new(self.scene.window, self.scene.watched_keys());
                self.naive.restart();
            }
            SceneStep::Reload(present) => {
                self.scene.present = present;
                self.keeper.replace_policy(self.scene.policy());
                self.watcher.replace_clients(self.scene.window, self.scene.watched_keys());
                self.naive.keep_only(&self.scene);
            }
        }
    }

    /// A datagram arrives, for the first time or again.
    fn deliver(&mut self, which: usize, source: SocketAddr) {
        let SentKnock { sender, knock, datagram, signer } = self.sent[which].clone();
        let bytes = datagram.as_bytes();
        let passed = self.watcher.judge(bytes, self.now).is_ok();
        let copies = self.sent.iter().filter(|other| other.datagram.as_bytes() == bytes).count();
        let is_named = self.scene.is_present(sender) && self.is_in_reach(&knock);
        assert!(!passed || is_named, "a knock of an unknown key or time was passed on");
        assert!(
            passed || !is_named || copies > 1 || self.delivered.contains(&which),
            "a first knock was dropped"
        );
        self.delivered.insert(which);
        let key = self.scene.keys(sender).fingerprint;
        let authentic = Authentic::from_watcher(key, bytes).expect("as long as a knock");
        // What the watcher drops is judged, too: the keeper must not rely on it.
        let arrival = KnockArrival { knock: &knock, nonce: datagram.nonce(), signer, source };
        let expected = self.naive.judge(&self.scene, sender, &arrival, self.now);
        self.judge(&authentic, (sender, &knock), source, expected);
    }

    /// The naive form of the table of hints.
    fn is_in_reach(&self, knock: &Knock) -> bool {
        let (first, last) = (self.now.wall.minus(self.scene.window), self.now.wall.plus(self.scene.window));
        (first.as_millis() / 60_000..=last.as_millis() / 60_000)
            .contains(&(knock.timestamp.as_millis() / 60_000))
    }

    fn judge(
        &mut self,
        authentic: &Authentic<'_>,
        (sender, knock): (Sender, &Knock),
        source: SocketAddr,
        expected: Verdict,
    ) {
        let envelope = *authentic.envelope();
        match (self.keeper.judge(authentic, source, self.now), expected) {
            (Judgment::Resend(bytes), Verdict::Resend(status)) => {
                self.check_reply(&bytes, sender, &envelope, source, status, None);
            }
            (Judgment::Ignore, Verdict::Ignore) => {}
            (Judgment::Refuse(refusal), Verdict::Refused { consumed: false, reason }) => {
                assert_eq!(refusal.rejection.reason(), reason);
                self.refuse(refusal, sender, &envelope, source, knock);
            }
            (Judgment::Record(accepted), Verdict::Refused { consumed: true, reason }) => {
                assert_eq!(accepted.acceptance().floor, self.naive.floor(&self.scene, sender));
                let Decision::Refuse(refusal) = self.keeper.decide(accepted, self.now) else {
                    panic!("allowed, although {reason:?}");
                };
                assert_eq!(refusal.rejection.reason(), reason);
                self.refuse(refusal, sender, &envelope, source, knock);
            }
            (Judgment::Record(accepted), Verdict::Acts { effects, seconds, commits }) => {
                assert_eq!(accepted.acceptance().floor, self.naive.floor(&self.scene, sender));
                let authorized = match self.keeper.decide(accepted, self.now) {
                    Decision::Execute(authorized) if !commits => authorized,
                    Decision::Commit(uncommitted) if commits => uncommitted.committed(),
                    Decision::Execute(_) | Decision::Commit(_) => panic!("commits: {commits}"),
                    Decision::Refuse(refusal) => panic!("refused: {}", refusal.rejection),
                };
                effects::check_effects(authorized.effects(), &effects, self.scene.name(sender), knock);
                assert_eq!(authorized.context().seconds(), seconds);
                let (_, reply) = self.keeper.conclude(authorized.context(), Outcome::Granted, "", self.now);
                let reply = self.seal(reply, knock);
                if let Some(bytes) = reply {
                    let status = ReplyStatus::Granted;
                    self.check_reply(&bytes, sender, &envelope, source, status, Some(seconds));
                }
            }
            (judgment, expected) => {
                panic!("{} instead of {expected:?}", name_of(&judgment));
            }
        }
    }

    fn refuse(
        &mut self,
        refusal: Refusal,
        sender: Sender,
        envelope: &Envelope<'_>,
        source: SocketAddr,
        knock: &Knock,
    ) {
        let Some(status) = refusal.rejection.status() else {
            assert!(refusal.reply.is_none());
            return;
        };
        if let Some(bytes) = self.seal(refusal.reply, knock) {
            self.check_reply(&bytes, sender, envelope, source, status, Some(0));
        }
    }

    /// Seals a reply, which there must be if and only if client and administrator want it.
    fn seal(&mut self, reply: Option<PendingReply>, knock: &Knock) -> Option<Vec<u8>> {
        assert_eq!(reply.is_some(), self.scene.reply && knock.reply == ReplyWanted::Yes);
        self.nonces += 1;
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.nonces.to_be_bytes());
        Some(self.keeper.seal(reply?, &nonce, self.now).expect("a configured client"))
    }

    fn check_reply(
        &self,
        bytes: &[u8],
        sender: Sender,
        envelope: &Envelope<'_>,
        source: SocketAddr,
        status: ReplyStatus,
        seconds: Option<u32>,
    ) {
        let keys = self.scene.keys(sender).client();
        let reply = open_reply(bytes, &keys.reply, envelope.nonce).expect("a reply to this client");
        assert_eq!((reply.observed, reply.port), (source.ip(), source.port()));
        assert_eq!(reply.status, status);
        assert!(seconds.is_none_or(|seconds| reply.seconds == seconds));
        for other in self.scene.others(sender) {
            let keys = self.scene.keys(other).client();
            assert!(open_reply(bytes, &keys.reply, envelope.nonce).is_err(), "another client can read it");
        }
    }
}

fn name_of(judgment: &Judgment) -> String {
    match judgment {
        Judgment::Record(_) => "recorded".to_owned(),
        Judgment::Resend(_) => "replied again".to_owned(),
        Judgment::Refuse(refusal) => format!("refused: {}", refusal.rejection),
        Judgment::Throttle => "throttled".to_owned(),
        Judgment::Ignore => "ignored".to_owned(),
    }
}
