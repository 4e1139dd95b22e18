//! At most once, whatever dies when: the keeper and its state on a simulated disk, under random schedules of knocks,
//! replays, jumping clocks, crashes, power losses, reloads and a disk that fails.
#![allow(clippy::disallowed_methods, reason = "tests make up times")]

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proptest::prelude::*;

use crate::os::files::FileError;
use crate::state::StateError;
use crate::state::disk::Disk;
use crate::state::journal_file::{JournalFile, UNWRITTEN_MAX};
use crate::state::replay::{Floors, ReplayState};
use spa_knock_core::auth::{
    Action, ActionPart, Authentic, ClientKey, ClientRules, Decision, Judgment, Keeper, KeyAge, Policy,
    PortSequence, Rejection, ReplayDomain, ReplayMemory, Term, Uses,
};
use spa_knock_core::crypto::{Fingerprint, KeySet, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, KnockRange, Now, PrefixLengths, ReplyWanted, Steady,
    TimeStep as HalfMinute, Timestamp,
};
use spa_knock_core::wire::{Datagram, proof, selector, sequence};

/// Bytes that a file takes at a time.
const BLOCK: usize = 256;

/// A disk of which a power loss keeps what was synced and any part of the rest.
#[derive(Clone, Default)]
pub(in crate::state) struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Default)]
struct Sim {
    files: Vec<Content>,
    /// What the names mean to processes, and what they mean on the platter.
    names: BTreeMap<String, usize>,
    kept_names: BTreeMap<String, usize>,
    coming: BTreeMap<String, usize>,
    kept_coming: BTreeMap<String, usize>,
    /// Every so manieth call fails, half-done.
    fails_every: Option<u32>,
    /// Whether no file can become longer.
    full: bool,
    calls: u32,
    dice: u64,
}

#[derive(Clone, Default)]
struct Content {
    seen: Vec<u8>,
    kept: Vec<u8>,
}

fn copy(from: &BTreeMap<String, usize>, to: &mut BTreeMap<String, usize>, name: &str) {
    match from.get(name) {
        Some(&file) => to.insert(name.to_owned(), file),
        None => to.remove(name),
    };
}

impl Sim {
    /// splitmix64: the schedule's own dice, so that a failing one can be run again.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn call(&mut self) -> Result<(), FileError> {
        self.calls += 1;
        match self.fails_every {
            Some(every) if self.calls.is_multiple_of(every) => {
                Err(FileError::io(Path::new("sim"), &std::io::Error::other("the disk fails")))
            }
            _ => Ok(()),
        }
    }

    fn keep_names(&mut self) {
        (self.kept_names, self.kept_coming) = (self.names.clone(), self.coming.clone());
    }

    fn spoil(&mut self, name: &str, how: impl FnOnce(&mut Vec<u8>)) {
        if let Some(&file) = self.names.get(name) {
            how(&mut self.files[file].seen);
        }
    }

    fn lose_power(&mut self) {
        let maps = [&self.names, &self.kept_names, &self.coming, &self.kept_coming];
        let names: HashSet<String> = maps.into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for name in names {
            // A name and that of the next version are exchanged both or not at all.
            if self.roll(2) == 0 {
                copy(&self.names, &mut self.kept_names, &name);
                copy(&self.coming, &mut self.kept_coming, &name);
            }
        }
        (self.names, self.coming) = (self.kept_names.clone(), self.kept_coming.clone());
        let named: Vec<usize> = self.names.values().chain(self.coming.values()).copied().collect();
        for at in named {
            let Content { seen, kept } = self.files[at].clone();
            let length = if self.roll(2) == 0 { seen.len() } else { kept.len() };
            let mut left = Vec::new();
            // Sectors reach the platter in any order, torn ones too.
            for start in (0..length).step_by(32) {
                let from = if self.roll(2) == 0 { &seen } else { &kept };
                left.extend((start..length.min(start + 32)).map(|i| from.get(i).copied().unwrap_or(0)));
            }
            self.files[at] = Content { seen: left.clone(), kept: left };
        }
    }
}

fn no_space() -> FileError {
    FileError::io(Path::new("sim"), &std::io::Error::from(std::io::ErrorKind::StorageFull))
}

impl SimDisk {
    /// The power is lost.
    pub(in crate::state) fn lose_power(&self) {
        self.sim().lose_power();
    }

    /// From now on every so manieth call fails.
    pub(in crate::state) fn fail_every(&self, every: Option<u32>) {
        self.sim().fails_every = every;
    }

    fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }
}

impl Disk for SimDisk {
    type File = usize;

    fn place(&self, name: &str) -> String {
        name.to_owned()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        let sim = self.sim();
        Ok(sim.names.get(name).map(|&file| sim.files[file].seen.clone()))
    }

    /// Overwrites the reserve in place, as the real one does.
    fn create(&self, name: &str, content: &[u8], room: usize) -> Result<(usize, u64), FileError> {
        let mut sim = self.sim();
        let failed = sim.call();
        let spare = sim.coming.get(name).copied();
        if spare.is_some() {
            sim.keep_names();
        }
        let before = spare.map_or(0, |file| sim.files[file].seen.len().next_multiple_of(BLOCK));
        if sim.full && content.len() > before {
            return Err(no_space());
        }
        let file = spare.unwrap_or_else(|| {
            sim.files.push(Content::default());
            sim.files.len() - 1
        });
        sim.coming.insert(name.to_owned(), file);
        if let Err(error) = failed {
            let half = content.len() / 2;
            let seen = &mut sim.files[file].seen;
            seen.resize(seen.len().max(half), 0);
            seen[..half].copy_from_slice(&content[..half]);
            return Err(error);
        }
        let mut bytes = content.to_vec();
        let most = if sim.full { before } else { room };
        bytes.resize(content.len().max(room.min(most)), 0);
        let length = u64::try_from(bytes.len()).unwrap();
        sim.files[file] = Content { seen: bytes.clone(), kept: bytes };
        Ok((file, length))
    }

    fn adopt(&self, name: &str) -> Result<(), FileError> {
        let mut sim = self.sim();
        sim.call()?;
        let file = sim.coming.remove(name).unwrap();
        if let Some(before) = sim.names.insert(name.to_owned(), file) {
            sim.coming.insert(name.to_owned(), before);
        }
        Ok(())
    }

    fn reserve(&self, name: &str, room: u64) -> Result<(), FileError> {
        let mut sim = self.sim();
        sim.call()?;
        let room = usize::try_from(room).unwrap();
        let spare = sim.coming.get(name).copied();
        if spare.is_some_and(|file| sim.files[file].seen.len() >= room) {
            return Ok(());
        }
        if sim.full {
            return Err(no_space());
        }
        sim.keep_names();
        sim.files.push(Content { seen: vec![0; room], kept: vec![0; room] });
        let file = sim.files.len() - 1;
        sim.coming.insert(name.to_owned(), file);
        Ok(())
    }

    fn sync_names(&self) -> Result<(), FileError> {
        let mut sim = self.sim();
        sim.call()?;
        sim.keep_names();
        Ok(())
    }

    fn write_at(&self, file: &usize, bytes: &[u8], offset: u64) -> Result<(), FileError> {
        let mut sim = self.sim();
        let mut failed = sim.call();
        let mut length = if failed.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let offset = usize::try_from(offset).unwrap();
        let room = sim.files[*file].seen.len().next_multiple_of(BLOCK).saturating_sub(offset);
        if sim.full && length > room {
            (failed, length) = (Err(no_space()), room);
        }
        let seen = &mut sim.files[*file].seen;
        seen.resize(seen.len().max(offset + length), 0);
        seen[offset..offset + length].copy_from_slice(&bytes[..length]);
        failed
    }

    fn cut(&self, file: &usize, offset: u64) -> Result<(), FileError> {
        let mut sim = self.sim();
        sim.call()?;
        sim.files[*file].seen.truncate(usize::try_from(offset).unwrap());
        Ok(())
    }

    fn sync(&self, file: &usize) -> Result<(), FileError> {
        let mut sim = self.sim();
        sim.call()?;
        let content = &mut sim.files[*file];
        content.kept = content.seen.clone();
        Ok(())
    }
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A client knocks, its clock so many milliseconds from the server's.
    Knock(usize, i64),
    /// A client touches its ports, its clock so many half minutes from the server's.
    Touch(usize, i64),
    /// Somebody sends an old knock again.
    Replay(usize),
    /// So much time passes.
    Pass(u64),
    /// The server's clock jumps.
    Jump(i64),
    /// kill -9, and another start.
    Crash,
    /// The power is lost, also in the middle of the start that follows.
    LosePower(bool),
    /// SIGTERM, and another start; in another boot or in this one.
    Restart(bool),
    /// A reload with these clients and this window in seconds.
    Reload([bool; 3], u64),
    /// Somebody spoils a byte of the journal or of the lease, and the server is started again.
    Spoil(bool, usize),
    /// From now on every so manieth call to the disk fails.
    Fail(Option<u32>),
    /// The disk is full, or has room again.
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let years = 10 * 365 * 86_400_000_i64;
    let jump = prop_oneof![-1_000..1_000_i64, -120_000..120_000_i64, -years..years];
    prop_oneof![
        30 => (0..3_usize, prop_oneof![6 => -25_000..25_000_i64, 1 => -4_000_000..4_000_000_i64])
            .prop_map(|(client, off)| Step::Knock(client, off)),
        15 => (0..3_usize, -2..3_i64).prop_map(|(client, off)| Step::Touch(client, off)),
        30 => any::<usize>().prop_map(Step::Replay),
        10 => prop_oneof![0..2_000_u64, 0..100_000_u64].prop_map(Step::Pass),
        4 => jump.prop_map(Step::Jump),
        4 => Just(Step::Crash),
        3 => any::<bool>().prop_map(Step::LosePower),
        3 => any::<bool>().prop_map(Step::Restart),
        3 => (any::<[bool; 3]>(), 1..120_u64).prop_map(|(clients, window)| Step::Reload(clients, window)),
        1 => (any::<bool>(), any::<usize>()).prop_map(|(lease, at)| Step::Spoil(lease, at)),
        1 => proptest::option::of(2..12_u32).prop_map(Step::Fail),
        2 => any::<bool>().prop_map(Step::Full),
    ]
}

/// The server, its surroundings, and everything that was ever sent.
struct World {
    disk: SimDisk,
    now: Now,
    boots: u32,
    window: Duration,
    present: [bool; 3],
    keys: [KeySet; 3],
    running: Option<(Keeper, ReplayState<SimDisk>)>,
    sent: Vec<(usize, Sent)>,
    acted: HashSet<usize>,
}

/// A knock on its way.
#[derive(Clone, PartialEq)]
enum Sent {
    Datagram(Vec<u8>),
    Ports(PortSequence),
}

impl World {
    fn new(dice: u64) -> Self {
        let disk = SimDisk::default();
        disk.sim().dice = dice;
        let server = "bastion".parse().unwrap();
        let keys = [1, 2, 3].map(|n| PairSecret::new(Secret::from_bytes(&[n; 32])).keys(&server));
        let start = Timestamp::from_millis(1_795_331_877_123);
        let mut world = Self {
            disk,
            now: Now { wall: start, steady: Steady::from_duration(Duration::from_secs(1_000)) },
            boots: 0,
            window: Duration::from_secs(30),
            present: [true; 3],
            keys,
            running: None,
            sent: Vec::new(),
            acted: HashSet::new(),
        };
        world.start();
        world
    }

    fn policy(&self) -> Policy {
        let touch = "touch".parse().unwrap();
        let rules = ClientRules {
            allow: [touch].into(),
            sources: [AddressPolicy::Observed].into(),
            rate: None,
            grant_prefix: PrefixLengths::SINGLE,
            expires: None,
            uses: None,
            key_limit: None,
            grants: 64,
        };
        let second = Duration::from_secs(1);
        let action = Action {
            parts: vec![ActionPart::Open { ports: vec!["tcp/22".parse().unwrap()], uses: Uses::Many }],
            term: Some(Term { usual: second, max: second }),
        };
        let clients = self.keys.iter().enumerate().filter(|(at, _)| self.present[*at]);
        let client = |(at, keys): (usize, &KeySet)| ClientKey {
            name: format!("client-{at}").parse().unwrap(),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            age: KeyAge::Current,
            otp: None,
            rules: rules.clone(),
        };
        Policy {
            window: self.window,
            reply: false,
            knock_range: Some(KnockRange::USUAL),
            own_addresses: std::collections::BTreeSet::new(),
            actions: [("touch".parse().unwrap(), action)].into(),
            clients: clients.map(client).collect(),
        }
    }

    /// Starts the server, and again until the disk lets it. A damaged state is reset as the hint says.
    fn start(&mut self) {
        let boot = format!("boot-{}", self.boots);
        for _ in 0..100 {
            match ReplayState::open(self.disk.clone(), boot.clone(), self.now, self.window) {
                Ok((state, memory)) => {
                    self.running = Some((Keeper::new(self.policy(), memory), state));
                    return;
                }
                Err(StateError::Damaged(..)) => {
                    let _ = ReplayState::reset(
                        self.disk.clone(),
                        boot.clone(),
                        self.now,
                        self.window,
                        Floors::Keep,
                    );
                }
                Err(_) => {}
            }
        }
        let mut sim = self.disk.sim();
        (sim.fails_every, sim.full) = (None, false);
        drop(sim);
        self.start();
    }

    fn take_time(&mut self, ms: i64) {
        self.now.wall = Timestamp::from_millis(self.now.wall.as_millis().saturating_add_signed(ms));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Knock(client, off) => {
                let wall = self.now.wall.as_millis().saturating_add_signed(off);
                let number = self.send(client, Timestamp::from_millis(wall));
                self.hear(number);
            }
            Step::Touch(client, off) => {
                let number = self.touch(client, off);
                self.hear(number);
            }
            Step::Replay(any) if !self.sent.is_empty() => {
                // Mostly of late: those are the ones that a memory could have lost.
                let back = if any.is_multiple_of(4) { any / 4 % self.sent.len() } else { any / 4 % 8 };
                self.hear(self.sent.len().saturating_sub(1 + back));
            }
            Step::Replay(_) => {}
            Step::Pass(ms) => {
                self.now.steady = self.now.steady.plus(Duration::from_millis(ms));
                self.now.wall = self.now.wall.plus(Duration::from_millis(ms));
            }
            Step::Jump(ms) => self.take_time(ms),
            Step::Crash => {
                self.running = None;
                self.start();
            }
            Step::LosePower(again) => {
                self.running = None;
                self.disk.sim().lose_power();
                self.boots += 1;
                if again {
                    self.start();
                    self.running = None;
                    self.disk.sim().lose_power();
                    self.boots += 1;
                }
                self.start();
            }
            Step::Restart(reboots) => {
                if let Some((_, state)) = self.running.take() {
                    // When it cannot say that it ended well, the next start must do without.
                    let _ = state.close();
                }
                if reboots {
                    self.disk.sim().lose_power();
                    self.boots += 1;
                }
                self.start();
            }
            Step::Reload(present, window) => {
                (self.present, self.window) = (present, Duration::from_secs(window));
                let policy = self.policy();
                self.running.as_mut().unwrap().0.replace_policy(policy);
            }
            Step::Spoil(lease, at) => {
                self.running = None;
                let name = if lease { "replay.lease" } else { "replay.journal" };
                self.disk.sim().spoil(name, |bytes| {
                    let at = at % bytes.len();
                    bytes[at] ^= 1;
                });
                self.start();
            }
            Step::Fail(every) => self.disk.sim().fails_every = every,
            Step::Full(full) => self.disk.sim().full = full,
        }
        let (keeper, state) = self.running.as_mut().unwrap();
        state.run_due(keeper.replay(), self.now, self.window);
    }

    fn send(&mut self, client: usize, timestamp: Timestamp) -> usize {
        let knock = Knock {
            timestamp,
            reply: ReplyWanted::No,
            seconds: 0,
            otp: None,
            policy: AddressPolicy::Observed,
            ipv4: None,
            ipv6: None,
            action: "touch".parse().unwrap(),
            argument: Argument::none(),
        };
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&u64::try_from(self.sent.len()).unwrap().to_be_bytes());
        let datagram = Datagram::seal_with(&knock, &self.keys[client].client(), nonce, 0).unwrap();
        self.sent.push((client, Sent::Datagram(datagram.as_bytes().to_vec())));
        self.sent.len() - 1
    }

    /// The same ports in the same half minute are the same knock.
    fn touch(&mut self, client: usize, off: i64) -> usize {
        let step = HalfMinute::new(HalfMinute::of(self.now.wall).number().saturating_add_signed(off));
        let (knock_range, keys) = (KnockRange::USUAL, self.keys[client].client());
        let proof = proof(&keys.proof, step, None, &"touch".parse().unwrap(), knock_range);
        let ports = sequence(selector(&keys.selector, step, knock_range), &proof).to_vec();
        let source = "10.0.0.1:4000".parse().unwrap();
        let fingerprint = self.keys[client].fingerprint;
        let sent = (client, Sent::Ports(PortSequence::from_watcher(fingerprint, step, source, ports)));
        self.sent.iter().position(|known| *known == sent).unwrap_or_else(|| {
            self.sent.push(sent);
            self.sent.len() - 1
        })
    }

    /// What the daemon does with a datagram, `daemon/knocks.rs`; why it was refused.
    fn hear(&mut self, number: usize) -> Option<Rejection> {
        let (client, sent) = &self.sent[number];
        let source: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let (keeper, state) = self.running.as_mut().unwrap();
        let result = match sent {
            Sent::Datagram(bytes) => {
                let knock = Authentic::from_watcher(self.keys[*client].fingerprint, bytes).unwrap();
                match keeper.judge(&knock, source, self.now) {
                    Judgment::Record(accepted) => Ok(accepted),
                    Judgment::Refuse(refusal) => Err(refusal),
                    Judgment::Resend(_) | Judgment::Ignore => return None,
                }
            }
            Sent::Ports(sequence) => keeper.judge_sequence(sequence, self.now).pop()?,
        };
        let accepted = match result {
            Ok(accepted) => accepted,
            Err(refusal) => return Some(refusal.rejection),
        };
        if !state.reaches(accepted.acceptance().timestamp) {
            state.run_due(keeper.replay(), self.now, self.window);
            state.settle();
        }
        state.record(accepted.acceptance()).ok()?;
        match keeper.decide(accepted, self.now) {
            Decision::Execute(_) => assert!(self.acted.insert(number), "knock {number} acted twice"),
            Decision::Refuse(refusal) => return Some(refusal.rejection),
            Decision::Commit(_) => {}
        }
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 250 } else { 2_500 }))]

    /// 250 schedules of 500 steps, on average of 375: more than 90,000 at least.
    #[test]
    fn no_schedule_makes_a_knock_act_twice(
        dice in any::<u64>(),
        steps in proptest::collection::vec(step(), 350..500),
    ) {
        let mut world = World::new(dice);
        for step in &steps {
            world.take(step);
        }
        // And in the end, everything that was ever sent once more.
        world.take(&Step::Full(false));
        world.disk.sim().fails_every = None;
        for end in [Step::Crash, Step::Restart(true), Step::LosePower(false)] {
            world.take(&end);
            for number in 0..world.sent.len() {
                world.hear(number);
            }
            world.take(&Step::Pass(0));
        }
    }
}

#[test]
fn a_first_start_that_dies_at_any_call_to_the_disk_is_followed_by_one_that_works() {
    let (window, boot) = (Duration::from_secs(30), |n: u32| format!("boot-{n}"));
    let mut died = 0;
    for (call, power, dice) in (1..10).flat_map(|call| (0..8).map(move |dice| (call, dice % 2 == 0, dice))) {
        let disk = SimDisk::default();
        (disk.sim().dice, disk.sim().fails_every) = (dice, Some(call));
        let now = Now {
            wall: Timestamp::from_millis(1_795_331_877_123),
            steady: Steady::from_duration(Duration::from_secs(1_000)),
        };
        died += u32::from(ReplayState::open(disk.clone(), boot(0), now, window).is_err());
        disk.sim().fails_every = None;
        if power {
            disk.sim().lose_power();
        }
        let next = ReplayState::open(disk, boot(u32::from(power)), now, window);
        assert!(next.is_ok(), "call {call}, power {power}: {}", next.err().unwrap());
    }
    assert!(died >= 40, "{died}");
}

#[test]
fn a_sequence_acts_once_from_the_first_step_on_that_begins_after_the_first_start() {
    for end in [Step::Pass(10), Step::Crash, Step::Restart(false), Step::Restart(true)] {
        let mut world = World::new(1);
        let early = world.touch(0, 0);
        assert_eq!(world.hear(early), Some(Rejection::Replayed), "{end:?}");
        world.take(&Step::Pass(30_000));
        let number = world.touch(0, 0);
        assert_eq!(world.hear(number), None, "{end:?}");
        assert_eq!(world.acted, HashSet::from([number]), "{end:?}");
        world.take(&end);
        assert_eq!(world.hear(number), None, "{end:?}: in silence");
        let datagram = world.send(0, world.now.wall);
        assert_eq!(world.hear(datagram), None, "{end:?}");
        assert!(world.acted.contains(&datagram), "{end:?}: a lane of its own");
    }
}

#[test]
fn a_client_with_a_clock_an_hour_ahead_is_refused_and_its_next_right_knock_works() {
    for end in [Step::Pass(10), Step::Crash, Step::Restart(false), Step::Restart(true)] {
        let mut world = World::new(1);
        let ahead = world.send(0, world.now.wall.plus(Duration::from_secs(3_600)));
        assert!(matches!(world.hear(ahead), Some(Rejection::Stale(_))), "{end:?}");
        world.take(&end);
        world.take(&Step::Pass(10));
        let right = world.send(0, world.now.wall);
        assert_eq!(world.hear(right), None, "{end:?}");
        assert!(world.acted.contains(&right), "{end:?}");
    }
}

#[test]
fn a_journal_with_any_bit_flipped_or_cut_at_any_byte_admits_nothing_again() {
    let mut world = World::new(3);
    for n in 0..12 {
        world.take(&Step::Knock(n % 3, 20_000));
        world.take(&Step::Pass(1));
    }
    world.running = None;
    assert_eq!(world.acted.len(), 12);
    let disk = |world: &World| {
        let sim = world.disk.sim();
        (sim.files.clone(), sim.names.clone(), sim.kept_names.clone(), sim.coming.clone())
    };
    let whole = disk(&world);
    let length = whole.0[whole.1["replay.journal"]].seen.len();
    let (mut refused, mut started) = (0, 0);
    for change in 0..length * 9 {
        let (at, bit) = (change % length, change / length);
        let mut sim = world.disk.sim();
        (sim.files, sim.names, sim.kept_names, sim.coming) = whole.clone();
        sim.spoil("replay.journal", |bytes| if bit < 8 { bytes[at] ^= 1 << bit } else { bytes.truncate(at) });
        drop(sim);
        let opened = ReplayState::open(world.disk.clone(), "boot-0".to_owned(), world.now, world.window);
        match opened {
            Err(StateError::Damaged(..)) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok((state, memory)) => {
                world.running = Some((Keeper::new(world.policy(), memory), state));
                // Whatever acts now acts twice.
                (0..12).for_each(|number| assert!(world.hear(number).is_some()));
                started += 1;
            }
        }
    }
    assert!(refused > length * 6 && started > 100, "{refused} refused, {started} started");
}

#[test]
fn a_lease_from_when_the_clock_was_ahead_is_lowered_once_it_has_been_set_right() {
    let mut world = World::new(1);
    let year = 365 * 86_400_000;
    world.take(&Step::Jump(year));
    world.take(&Step::Restart(false));
    world.take(&Step::Jump(-year));
    // The first turn asks for it; it is on the disk when the next ones have heard of it.
    for _ in 0..200 {
        world.take(&Step::Pass(1_000));
        std::thread::sleep(Duration::from_millis(1));
    }
    world.take(&Step::LosePower(false));
    world.take(&Step::Pass(120_000));
    let honest = world.send(0, world.now.wall);
    assert_eq!(world.hear(honest), None, "believed two minutes after the power loss, not in a year");
}

#[test]
fn an_honest_knock_works_right_after_a_crash_and_after_a_clean_stop() {
    for end in [Step::Crash, Step::Restart(false), Step::Restart(true)] {
        let mut world = World::new(2);
        for _ in 0..200 {
            world.take(&Step::Knock(1, 20_000));
            world.take(&Step::Pass(1));
        }
        world.take(&end);
        world.take(&Step::Pass(1));
        let honest = world.send(1, world.now.wall);
        assert_eq!(world.hear(honest), None, "{end:?}");
    }
}

#[test]
fn a_disk_that_is_full_after_the_first_start_stops_neither_knocks_nor_a_start() {
    let mut world = World::new(4);
    world.take(&Step::Full(true));
    for round in 0..40 {
        for n in 0..10 {
            let client = n % 3;
            let number = world.send(client, world.now.wall.plus(Duration::from_millis(20_000)));
            assert_eq!(world.hear(number), None, "round {round}, knock {n}");
            assert!(world.acted.contains(&number), "round {round}, knock {n}");
            world.take(&Step::Pass(7_000));
            // The journal is written again in the background.
            world.running.as_mut().unwrap().1.settle();
        }
        let end = [Step::Crash, Step::Restart(false), Step::Restart(true)][round % 3].clone();
        world.take(&end);
        assert!(world.disk.sim().full, "round {round}: it has started without room");
        for number in 0..world.sent.len() {
            world.hear(number);
        }
        world.take(&Step::Pass(700));
    }
}

#[test]
fn a_reset_names_a_floor_that_is_ahead_of_the_clock_and_lowers_it_where_it_is_asked_to() {
    let mut world = World::new(5);
    let year = 365 * 86_400_000;
    // The clock is ahead at the very first start, and then it is set right.
    world.running = None;
    world.disk = SimDisk::default();
    world.take_time(year);
    world.start();
    world.running.take().unwrap().1.close().unwrap();
    world.take_time(-year);
    let (now, window) = (world.now, world.window);
    let reset =
        |floors| ReplayState::reset(world.disk.clone(), "boot-0".to_owned(), now, window, floors).unwrap();
    let kept = reset(Floors::Keep);
    assert!(kept.is_ahead && kept.floor > now.wall.plus(Duration::from_secs(364 * 86_400)), "{kept:?}");
    let forgotten = reset(Floors::Forget);
    assert_eq!((forgotten.floor, forgotten.is_ahead), (now.wall.plus(window), false));
    world.start();
    world.take(&Step::Pass(31_000));
    let honest = world.send(0, world.now.wall);
    assert_eq!(world.hear(honest), None, "accepted after the window");
}

#[test]
fn a_journal_that_begins_long_is_appended_to() {
    let mut memory = ReplayMemory::new(Timestamp::default());
    let window = Duration::from_secs(30);
    let key = |n: u64| Fingerprint::from_bytes(n.to_be_bytes());
    for n in 0..UNWRITTEN_MAX + 10 {
        memory
            .accept(key(n), ReplayDomain::Datagrams, Timestamp::from_millis(100_000), [1; 12], window)
            .unwrap();
    }
    let disk = SimDisk::default();
    let mut journal = JournalFile::write(&disk, &memory).unwrap();
    let accepted = memory
        .accept(key(0), ReplayDomain::Datagrams, Timestamp::from_millis(100_001), [2; 12], window)
        .unwrap();
    assert!(journal.append(&disk, &accepted).is_ok());
    let appended = (0..UNWRITTEN_MAX).take_while(|_| journal.append(&disk, &accepted).is_ok());
    assert!(appended.count() < usize::try_from(UNWRITTEN_MAX).unwrap(), "and not without end");
}
