//! Tests that every knock acts at most once: the keeper and its state on a simulated disk, with random schedules of
//! knocks, replays, clock jumps, crashes, power losses, reloads and disk failures.
#![allow(clippy::disallowed_methods, reason = "tests use artificial times")]

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proptest::prelude::*;

use crate::os::files::FileError;
use crate::state::StateError;
use crate::state::disk::Disk;
use crate::state::journal::JournalRecord;
use crate::state::journal_file::{JournalFile, UNWRITTEN_MAX};
use crate::state::replay::{Floors, ReplayState};
use spa_knock_core::auth::{
    Action, ActionPart, Authentic, ClientKey, ClientRules, Decision, Judgment, Keeper, KeyAge, Policy,
    PortSequence, Rejection, ReplayDomain, ReplayMemory, Term, Uses,
};
use spa_knock_core::crypto::{Fingerprint, KeySet, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, KnockRange, Now, PrefixLengths, ReplyWanted, Steady, TimeStep, Timestamp,
};
use spa_knock_core::wire::{Datagram, proof, selector, sequence};

/// Allocation unit of the simulated disk in bytes.
const BLOCK: usize = 256;

/// A disk that keeps synced data and a random part of the rest after a power loss.
#[derive(Clone, Default)]
pub(in crate::state) struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Default)]
struct Sim {
    files: Vec<Content>,
    /// File names as seen by processes, and those that are synced.
    names: BTreeMap<String, usize>,
    kept_names: BTreeMap<String, usize>,
    next_versions: BTreeMap<String, usize>,
    kept_next_versions: BTreeMap<String, usize>,
    /// Every n-th call fails halfway.
    fails_every: Option<u32>,
    /// Whether no file can grow.
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
    /// splitmix64: a deterministic generator, so that a failing schedule can be repeated.
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
        (self.kept_names, self.kept_next_versions) = (self.names.clone(), self.next_versions.clone());
    }

    fn damage(&mut self, name: &str, how: impl FnOnce(&mut Vec<u8>)) {
        if let Some(&file) = self.names.get(name) {
            how(&mut self.files[file].seen);
        }
    }

    fn lose_power(&mut self) {
        let maps = [&self.names, &self.kept_names, &self.next_versions, &self.kept_next_versions];
        let names: HashSet<String> = maps.into_iter().flat_map(BTreeMap::keys).cloned().collect();
        for name in names {
            // The name of a file and that of its next version are exchanged atomically.
            if self.roll(2) == 0 {
                copy(&self.names, &mut self.kept_names, &name);
                copy(&self.next_versions, &mut self.kept_next_versions, &name);
            }
        }
        (self.names, self.next_versions) = (self.kept_names.clone(), self.kept_next_versions.clone());
        let named: Vec<usize> = self.names.values().chain(self.next_versions.values()).copied().collect();
        for at in named {
            let Content { seen, kept } = self.files[at].clone();
            let length = if self.roll(2) == 0 { seen.len() } else { kept.len() };
            let mut left = Vec::new();
            // Sectors are written in any order, and can be written partially.
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
    /// Simulates a power loss.
    pub(in crate::state) fn lose_power(&self) {
        self.sim().lose_power();
    }

    /// Another disk with the same files.
    pub(in crate::state) fn copy(&self) -> Self {
        let sim = self.sim();
        let (files, names, kept_names) = (sim.files.clone(), sim.names.clone(), sim.kept_names.clone());
        Self(Arc::new(Mutex::new(Sim { files, names, kept_names, ..Sim::default() })))
    }

    /// Removes a file, as an administrator could.
    pub(in crate::state) fn remove(&self, name: &str) {
        self.sim().names.remove(name);
    }

    /// Changes the bytes of a file.
    pub(in crate::state) fn damage(&self, name: &str, how: impl FnOnce(&mut Vec<u8>)) {
        self.sim().damage(name, how);
    }

    /// Makes the disk full, or gives it space again.
    pub(in crate::state) fn fill(&self, full: bool) {
        self.sim().full = full;
    }

    /// Makes every n-th call fail from now on.
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

    /// Overwrites the reserve in place, as the real disk operation does.
    fn create(&self, name: &str, content: &[u8], room: usize) -> Result<(usize, u64), FileError> {
        let mut sim = self.sim();
        let failed = sim.call();
        let spare = sim.next_versions.get(name).copied();
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
        sim.next_versions.insert(name.to_owned(), file);
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
        let file = sim.next_versions.remove(name).unwrap();
        if let Some(before) = sim.names.insert(name.to_owned(), file) {
            sim.next_versions.insert(name.to_owned(), before);
        }
        Ok(())
    }

    fn reserve(&self, name: &str, room: u64) -> Result<(), FileError> {
        let mut sim = self.sim();
        sim.call()?;
        let room = usize::try_from(room).unwrap();
        let spare = sim.next_versions.get(name).copied();
        if spare.is_some_and(|file| sim.files[file].seen.len() >= room) {
            return Ok(());
        }
        if sim.full {
            return Err(no_space());
        }
        sim.keep_names();
        sim.files.push(Content { seen: vec![0; room], kept: vec![0; room] });
        let file = sim.files.len() - 1;
        sim.next_versions.insert(name.to_owned(), file);
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

/// One event of a schedule.
#[derive(Debug, Clone)]
enum Step {
    /// A client sends a knock datagram; its clock differs from the server's by this many ms.
    Knock(usize, i64),
    /// A client sends a port sequence; its clock differs from the server's by this many time steps.
    Ports(usize, i64),
    /// An attacker replays an old knock.
    Replay(usize),
    /// This many ms pass.
    Pass(u64),
    /// The server's clock jumps by this many ms.
    Jump(i64),
    /// The daemon is killed and started again.
    Crash,
    /// The power is lost; if true, again after the next start.
    LosePower(bool),
    /// The daemon is stopped and started again; if true, after a reboot.
    Restart(bool),
    /// The config is reloaded with these clients and this window in seconds.
    Reload([bool; 3], u64),
    /// A byte of the lease (true) or of the journal is changed, and the daemon is started again.
    Damage(bool, usize),
    /// Every n-th call to the disk fails from now on.
    Fail(Option<u32>),
    /// The disk becomes full, or has space again.
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let years = 10 * 365 * 86_400_000_i64;
    let jump = prop_oneof![-1_000..1_000_i64, -120_000..120_000_i64, -years..years];
    prop_oneof![
        30 => (0..3_usize, prop_oneof![6 => -25_000..25_000_i64, 1 => -4_000_000..4_000_000_i64])
            .prop_map(|(client, off)| Step::Knock(client, off)),
        15 => (0..3_usize, -2..3_i64).prop_map(|(client, off)| Step::Ports(client, off)),
        30 => any::<usize>().prop_map(Step::Replay),
        10 => prop_oneof![0..2_000_u64, 0..100_000_u64].prop_map(Step::Pass),
        4 => jump.prop_map(Step::Jump),
        4 => Just(Step::Crash),
        3 => any::<bool>().prop_map(Step::LosePower),
        3 => any::<bool>().prop_map(Step::Restart),
        3 => (any::<[bool; 3]>(), 1..120_u64).prop_map(|(clients, window)| Step::Reload(clients, window)),
        1 => (any::<bool>(), any::<usize>()).prop_map(|(lease, at)| Step::Damage(lease, at)),
        1 => proptest::option::of(2..12_u32).prop_map(Step::Fail),
        2 => any::<bool>().prop_map(Step::Full),
    ]
}

/// The server, its disk and clock, and everything that was ever sent.
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

/// A knock that was sent.
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
        let open = "open".parse().unwrap();
        let rules = ClientRules {
            allow: [open].into(),
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
            signer: None,
            age: KeyAge::Current,
            otp: None,
            rules: rules.clone(),
        };
        Policy {
            window: self.window,
            reply: false,
            knock_range: Some(KnockRange::USUAL),
            own_addresses: std::collections::BTreeSet::new(),
            actions: [("open".parse().unwrap(), action)].into(),
            clients: clients.map(client).collect(),
        }
    }

    /// Starts the server, and tries again until the disk allows it. Resets a damaged state, as the error's hint
    /// suggests.
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

    fn move_clock(&mut self, ms: i64) {
        self.now.wall = Timestamp::from_millis(self.now.wall.as_millis().saturating_add_signed(ms));
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Knock(client, off) => {
                let wall = self.now.wall.as_millis().saturating_add_signed(off);
                let number = self.send(client, Timestamp::from_millis(wall));
                self.receive(number);
            }
            Step::Ports(client, off) => {
                let number = self.send_ports(client, off);
                self.receive(number);
            }
            Step::Replay(any) if !self.sent.is_empty() => {
                // Mostly recent knocks, because those are the ones that a memory could have lost.
                let back = if any.is_multiple_of(4) { any / 4 % self.sent.len() } else { any / 4 % 8 };
                self.receive(self.sent.len().saturating_sub(1 + back));
            }
            Step::Replay(_) => {}
            Step::Pass(ms) => {
                self.now.steady = self.now.steady.plus(Duration::from_millis(ms));
                self.now.wall = self.now.wall.plus(Duration::from_millis(ms));
            }
            Step::Jump(ms) => self.move_clock(ms),
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
                    // If it cannot mark the end as clean, the next start must still work.
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
            Step::Damage(lease, at) => {
                self.running = None;
                let name = if lease { "replay.lease" } else { "replay.journal" };
                self.disk.sim().damage(name, |bytes| {
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
            action: "open".parse().unwrap(),
            argument: Argument::none(),
        };
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&u64::try_from(self.sent.len()).unwrap().to_be_bytes());
        let datagram = Datagram::seal_with(&knock, &self.keys[client].client(), nonce, 0).unwrap();
        self.sent.push((client, Sent::Datagram(datagram.as_bytes().to_vec())));
        self.sent.len() - 1
    }

    /// Sends a port sequence. The same ports in the same time step are the same knock.
    fn send_ports(&mut self, client: usize, off: i64) -> usize {
        let step = TimeStep::new(TimeStep::of(self.now.wall).number().saturating_add_signed(off));
        let (knock_range, keys) = (KnockRange::USUAL, self.keys[client].client().ports.unwrap());
        let proof = proof(&keys.proof, step, None, &"open".parse().unwrap(), knock_range);
        let ports = sequence(selector(&keys.selector, step, knock_range), &proof).to_vec();
        let source = "10.0.0.1:4000".parse().unwrap();
        let fingerprint = self.keys[client].fingerprint;
        let sent = (client, Sent::Ports(PortSequence::from_watcher(fingerprint, step, source, ports)));
        self.sent.iter().position(|known| *known == sent).unwrap_or_else(|| {
            self.sent.push(sent);
            self.sent.len() - 1
        })
    }

    /// Processes a knock as the daemon does in `daemon/knocks.rs`. Returns the rejection if it was refused.
    fn receive(&mut self, number: usize) -> Option<Rejection> {
        let (client, sent) = &self.sent[number];
        let source: SocketAddr = "10.0.0.1:4000".parse().unwrap();
        let (keeper, state) = self.running.as_mut().unwrap();
        let result = match sent {
            Sent::Datagram(bytes) => {
                let knock = Authentic::from_watcher(self.keys[*client].fingerprint, bytes).unwrap();
                match keeper.judge(&knock, source, self.now) {
                    Judgment::Record(accepted) => Ok(accepted),
                    Judgment::Refuse(refusal) => Err(refusal),
                    Judgment::Resend(_) | Judgment::Throttle | Judgment::Ignore => return None,
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

    /// 250 schedules of 350 to 500 events: more than 90,000 events.
    #[test]
    fn no_schedule_makes_a_knock_act_twice(
        dice in any::<u64>(),
        steps in proptest::collection::vec(step(), 350..500),
    ) {
        let mut world = World::new(dice);
        for step in &steps {
            world.run(step);
        }
        // At the end, everything that was ever sent is sent again.
        world.run(&Step::Full(false));
        world.disk.sim().fails_every = None;
        for end in [Step::Crash, Step::Restart(true), Step::LosePower(false)] {
            world.run(&end);
            for number in 0..world.sent.len() {
                world.receive(number);
            }
            world.run(&Step::Pass(0));
        }
    }
}

#[test]
fn a_start_succeeds_after_a_first_start_that_failed_at_any_disk_call() {
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
fn a_port_sequence_acts_once_if_its_time_step_begins_after_the_first_start() {
    for end in [Step::Pass(10), Step::Crash, Step::Restart(false), Step::Restart(true)] {
        let mut world = World::new(1);
        let early = world.send_ports(0, 0);
        assert_eq!(world.receive(early), Some(Rejection::Replayed), "{end:?}");
        world.run(&Step::Pass(30_000));
        let number = world.send_ports(0, 0);
        assert_eq!(world.receive(number), None, "{end:?}");
        assert_eq!(world.acted, HashSet::from([number]), "{end:?}");
        world.run(&end);
        assert_eq!(world.receive(number), None, "{end:?}: ignored");
        let datagram = world.send(0, world.now.wall);
        assert_eq!(world.receive(datagram), None, "{end:?}");
        assert!(world.acted.contains(&datagram), "{end:?}: a separate replay domain");
    }
}

#[test]
fn a_knock_from_a_clock_an_hour_ahead_is_refused_and_the_next_correct_one_works() {
    for end in [Step::Pass(10), Step::Crash, Step::Restart(false), Step::Restart(true)] {
        let mut world = World::new(1);
        let ahead = world.send(0, world.now.wall.plus(Duration::from_secs(3_600)));
        assert!(matches!(world.receive(ahead), Some(Rejection::Stale(_))), "{end:?}");
        world.run(&end);
        world.run(&Step::Pass(10));
        let right = world.send(0, world.now.wall);
        assert_eq!(world.receive(right), None, "{end:?}");
        assert!(world.acted.contains(&right), "{end:?}");
    }
}

#[test]
fn a_journal_with_any_flipped_bit_or_truncated_at_any_byte_accepts_no_replay() {
    let mut world = World::new(3);
    for n in 0..12 {
        world.run(&Step::Knock(n % 3, 20_000));
        world.run(&Step::Pass(1));
    }
    world.running = None;
    assert_eq!(world.acted.len(), 12);
    let disk = |world: &World| {
        let sim = world.disk.sim();
        (sim.files.clone(), sim.names.clone(), sim.kept_names.clone(), sim.next_versions.clone())
    };
    let whole = disk(&world);
    let length = whole.0[whole.1["replay.journal"]].seen.len();
    let (mut refused, mut started) = (0, 0);
    for change in 0..length * 9 {
        let (at, bit) = (change % length, change / length);
        let mut sim = world.disk.sim();
        (sim.files, sim.names, sim.kept_names, sim.next_versions) = whole.clone();
        sim.damage(
            "replay.journal",
            |bytes| if bit < 8 { bytes[at] ^= 1 << bit } else { bytes.truncate(at) },
        );
        drop(sim);
        let opened = ReplayState::open(world.disk.clone(), "boot-0".to_owned(), world.now, world.window);
        match opened {
            Err(StateError::Damaged(..)) => refused += 1,
            Err(error) => panic!("{error}"),
            Ok((state, memory)) => {
                world.running = Some((Keeper::new(world.policy(), memory), state));
                // Any knock that acts now acts twice.
                (0..12).for_each(|number| assert!(world.receive(number).is_some()));
                started += 1;
            }
        }
    }
    assert!(refused > length * 6 && started > 100, "{refused} refused, {started} started");
}

#[test]
fn a_lease_from_a_clock_that_was_ahead_is_lowered_after_the_clock_is_corrected() {
    let mut world = World::new(1);
    let year = 365 * 86_400_000;
    world.run(&Step::Jump(year));
    world.run(&Step::Restart(false));
    world.run(&Step::Jump(-year));
    // The first call requests the new lease; later calls learn that it is on disk.
    for _ in 0..200 {
        world.run(&Step::Pass(1_000));
        std::thread::sleep(Duration::from_millis(1));
    }
    world.run(&Step::LosePower(false));
    world.run(&Step::Pass(120_000));
    let genuine = world.send(0, world.now.wall);
    assert_eq!(world.receive(genuine), None, "accepted two minutes after the power loss, not a year later");
}

#[test]
fn a_genuine_knock_works_right_after_a_crash_and_after_a_clean_stop() {
    for end in [Step::Crash, Step::Restart(false), Step::Restart(true)] {
        let mut world = World::new(2);
        for _ in 0..200 {
            world.run(&Step::Knock(1, 20_000));
            world.run(&Step::Pass(1));
        }
        world.run(&end);
        world.run(&Step::Pass(1));
        let genuine = world.send(1, world.now.wall);
        assert_eq!(world.receive(genuine), None, "{end:?}");
    }
}

#[test]
fn a_full_disk_after_the_first_start_prevents_neither_knocks_nor_starts() {
    let mut world = World::new(4);
    world.run(&Step::Full(true));
    for round in 0..40 {
        for n in 0..10 {
            let client = n % 3;
            let number = world.send(client, world.now.wall.plus(Duration::from_millis(20_000)));
            assert_eq!(world.receive(number), None, "round {round}, knock {n}");
            assert!(world.acted.contains(&number), "round {round}, knock {n}");
            world.run(&Step::Pass(7_000));
            // The journal is rewritten in the background.
            world.running.as_mut().unwrap().1.settle();
        }
        let end = [Step::Crash, Step::Restart(false), Step::Restart(true)][round % 3].clone();
        world.run(&end);
        assert!(world.disk.sim().full, "round {round}: it has started on a full disk");
        for number in 0..world.sent.len() {
            world.receive(number);
        }
        world.run(&Step::Pass(700));
    }
}

#[test]
fn a_reset_reports_a_floor_ahead_of_the_clock_and_lowers_it_on_request() {
    let mut world = World::new(5);
    let year = 365 * 86_400_000;
    // The clock is ahead at the very first start and is then corrected.
    world.running = None;
    world.disk = SimDisk::default();
    world.move_clock(year);
    world.start();
    world.running.take().unwrap().1.close().unwrap();
    world.move_clock(-year);
    let (now, window) = (world.now, world.window);
    let reset =
        |floors| ReplayState::reset(world.disk.clone(), "boot-0".to_owned(), now, window, floors).unwrap();
    let kept = reset(Floors::Keep);
    assert!(kept.is_ahead && kept.floor > now.wall.plus(Duration::from_secs(364 * 86_400)), "{kept:?}");
    let forgotten = reset(Floors::Forget);
    assert_eq!((forgotten.floor, forgotten.is_ahead), (now.wall.plus(window), false));
    world.start();
    world.run(&Step::Pass(31_000));
    let genuine = world.send(0, world.now.wall);
    assert_eq!(world.receive(genuine), None, "accepted after the window");
}

#[test]
fn a_journal_that_is_long_when_written_can_be_appended_to() {
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
    let accepted = JournalRecord::Accepted(accepted);
    assert!(journal.append(&disk, accepted).is_ok());
    let appended = (0..UNWRITTEN_MAX).take_while(|_| journal.append(&disk, accepted).is_ok());
    assert!(
        appended.count() < usize::try_from(UNWRITTEN_MAX).unwrap(),
        "the number of appended records is limited"
    );
}
