//! Tests on the simulated disk that uses and one-time passwords are never given back, whatever crashes at whatever
//! time. The client has a limited number of uses, and each of its knocks needs a one-time password.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::crash_model::SimDisk;
use crate::state::StateError;
use crate::state::replay::{Floors, ReplayState};
use spa_knock_core::auth::{
    Action, ActionPart, Authentic, ClientKey, ClientRules, Decision, Judgment, Keeper, KeyAge, Policy, Term,
    Uses,
};
use spa_knock_core::crypto::{KeySet, OtpDigits, OtpHash, OtpSeed, OtpStep, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, Now, PrefixLengths, ReplyWanted, Steady, Timestamp,
};
use spa_knock_core::wire::Datagram;

const WINDOW: Duration = Duration::from_secs(30);
const USES: u64 = 8;

/// One event of a schedule.
#[derive(Debug, Clone)]
enum Step {
    /// A knock with the code of a time step this many steps from now.
    Knock(i64),
    Pass(u64),
    /// The daemon is killed and started again.
    Crash,
    LosePower,
    Restart,
    Fail(Option<u32>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (-1..=1_i64).prop_map(Step::Knock),
        6 => (0..60_000_u64).prop_map(Step::Pass),
        2 => Just(Step::Crash),
        2 => Just(Step::LosePower),
        1 => Just(Step::Restart),
        2 => prop_oneof![Just(None), (2..6_u32).prop_map(Some)].prop_map(Step::Fail),
    ]
}

struct World {
    disk: SimDisk,
    boot: u32,
    now: Now,
    keys: KeySet,
    seed: OtpSeed,
    nonces: u32,
}

impl World {
    fn new() -> Self {
        let secret = PairSecret::new(Secret::from_bytes(&[7; 32]));
        Self {
            disk: SimDisk::default(),
            boot: 1,
            now: Now {
                wall: Timestamp::from_millis(1_800_000_000_000),
                steady: Steady::from_duration(Duration::from_secs(1)),
            },
            keys: secret.keys(&"a".parse().unwrap()),
            seed: OtpSeed::generate(OtpHash::Sha1, OtpDigits::Eight).unwrap(),
            nonces: 0,
        }
    }

    fn policy(&self) -> Policy {
        let action = Action {
            parts: vec![ActionPart::Open { ports: vec!["tcp/22".parse().unwrap()], uses: Uses::Many }],
            term: Some(Term { usual: WINDOW, max: WINDOW }),
        };
        let rules = ClientRules {
            allow: BTreeSet::from(["o".parse().unwrap()]),
            sources: BTreeSet::from([AddressPolicy::Observed]),
            grant_prefix: PrefixLengths::SINGLE,
            rate: None,
            expires: None,
            uses: Some(USES),
            key_limit: None,
            grants: 64,
        };
        let client = ClientKey {
            name: "c".parse().unwrap(),
            fingerprint: self.keys.fingerprint,
            keys: self.keys.keeper(),
            signer: None,
            age: KeyAge::Current,
            otp: Some(self.seed.clone()),
            rules,
        };
        Policy {
            window: WINDOW,
            reply: false,
            knock_range: None,
            own_addresses: BTreeSet::new(),
            actions: [("o".parse().unwrap(), action)].into(),
            clients: vec![client],
        }
    }

    /// Starts a daemon, and tries again until the disk allows it.
    fn start(&self) -> (ReplayState<SimDisk>, Keeper) {
        loop {
            match ReplayState::open(self.disk.clone(), self.boot.to_string(), self.now, WINDOW) {
                Ok((state, memory)) => {
                    let uses = state.uses().clone();
                    return (state, Keeper::new(self.policy(), memory).with_uses(uses));
                }
                Err(StateError::Damaged(..)) => {
                    let _ = ReplayState::reset(
                        self.disk.clone(),
                        self.boot.to_string(),
                        self.now,
                        WINDOW,
                        Floors::Keep,
                    );
                }
                Err(_) => self.disk.fail_every(None),
            }
        }
    }

    fn knock(&mut self, code: u32) -> Datagram {
        self.nonces += 1;
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.nonces.to_be_bytes());
        let knock = Knock {
            timestamp: self.now.wall,
            reply: ReplyWanted::No,
            seconds: 0,
            otp: Some(code),
            policy: AddressPolicy::Observed,
            ipv4: None,
            ipv6: None,
            action: "o".parse().unwrap(),
            argument: Argument::none(),
        };
        Datagram::seal_with(&knock, &self.keys.client(), nonce, 0).unwrap()
    }
}

/// Runs steps 4 to 9 as the daemon does. Returns whether the knock acted.
fn acts(state: &mut ReplayState<SimDisk>, keeper: &mut Keeper, world: &World, datagram: &Datagram) -> bool {
    let knock = Authentic::from_watcher(world.keys.fingerprint, datagram.as_bytes()).unwrap();
    let source = "192.0.2.7:4000".parse().unwrap();
    let Judgment::Record(accepted) = keeper.judge(&knock, source, world.now) else { return false };
    if state.record(accepted.acceptance()).is_err() {
        return false;
    }
    match keeper.decide(accepted, world.now) {
        Decision::Commit(uncommitted) => {
            if state.record(uncommitted.code().unwrap()).is_err() {
                return false;
            }
            state.begin_uses(keeper.uses().clone());
            // A crash at this point loses a use, but does not give one back.
            state.settle();
            state.ended().uses.is_some_and(|recorded| recorded.is_ok())
        }
        Decision::Execute(_) => panic!("executed without consuming a use and a code"),
        Decision::Refuse(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_use_and_no_code_is_given_back_after_any_crash(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let (mut state, mut keeper) = world.start();
        let (mut acted, mut codes) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Knock(off) => {
                    let of = OtpStep::of(world.now.wall).plus(off);
                    let datagram = world.knock(world.seed.code(of));
                    if acts(&mut state, &mut keeper, &world, &datagram) {
                        acted += 1;
                        prop_assert!(!codes.contains(&of), "a code was accepted twice");
                        codes.push(of);
                    }
                }
                Step::Pass(ms) => {
                    let span = Duration::from_millis(ms);
                    world.now.wall = world.now.wall.plus(span);
                    world.now.steady = world.now.steady.plus(span);
                    state.run_due(keeper.replay(), world.now, WINDOW);
                }
                Step::Crash => {
                    drop(state);
                    (state, keeper) = world.start();
                }
                Step::LosePower => {
                    drop(state);
                    world.disk.lose_power();
                    world.boot += 1;
                    (state, keeper) = world.start();
                }
                Step::Restart => {
                    let _ = state.close();
                    (state, keeper) = world.start();
                }
                Step::Fail(every) => world.disk.fail_every(every),
            }
            prop_assert!(acted <= USES, "a use was given back");
        }
    }
}

#[test]
fn no_use_is_lost_without_a_crash() {
    let mut world = World::new();
    let (mut state, mut keeper) = world.start();
    let mut acted = 0;
    for _ in 0..USES + 5 {
        let datagram = world.knock(world.seed.code(OtpStep::of(world.now.wall)));
        acted += u64::from(acts(&mut state, &mut keeper, &world, &datagram));
        assert!(!acts(&mut state, &mut keeper, &world, &datagram), "the same knock");
        let again = world.knock(world.seed.code(OtpStep::of(world.now.wall)));
        assert!(!acts(&mut state, &mut keeper, &world, &again), "the same code");
        world.now.wall = world.now.wall.plus(Duration::from_secs(30));
        state.run_due(keeper.replay(), world.now, WINDOW);
    }
    assert_eq!(acted, USES);
}
