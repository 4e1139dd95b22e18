//! Which fault begins and ends when. The same seed makes the same schedule.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::clock::ClockOffset;
use super::network::{COUNT, Host, Trouble};

/// Pseudorandom numbers from a seed: SplitMix64.
#[derive(Clone)]
pub(super) struct Dice(u64);

/// A process that a fault hits. Which etcd it is depends on who leads then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victim {
    Leader,
    Follower,
    StoreProcess(usize),
    Keeper(usize),
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Packets are dropped or late.
    Network(Vec<Trouble>),
    /// SIGSTOP; SIGCONT at the end.
    Pause(Victim),
    /// SIGKILL; started again at the end.
    Kill(Victim),
    /// The clock of a member is wrong.
    Clock(usize, ClockOffset),
    /// The disk of one etcd is full.
    FullDisk,
    /// A copy of the store is saved. At the end, it replaces the store.
    Restore,
}

/// A fault and its time since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FaultSpan {
    pub(super) begin: Duration,
    pub(super) end: Duration,
    pub(super) fault: Fault,
}

/// How many kinds of faults there are without restored copies.
const KINDS: usize = 13;
/// The pause between the beginnings of two faults, in milliseconds.
const PAUSE: Range<u64> = 2_000..8_000;
/// How wrong a clock can be.
const OFFSET: Duration = Duration::from_secs(90);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    /// A number below this one.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(limit).unwrap()).unwrap()
    }

    /// Whether something happens that does so in this many of 100 cases.
    pub(super) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// A time in this range of milliseconds.
    pub(super) fn millis(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.next() % (range.end - range.start))
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// The faults of a run of this length. Each kind occurs before one occurs again. Copies of the store are restored at these
/// times.
pub(super) fn schedule(seed: u64, length: Duration, restores: &[Duration]) -> Vec<FaultSpan> {
    let mut dice = Dice::new(seed);
    let mut spans: Vec<FaultSpan> = restores
        .iter()
        .map(|begin| FaultSpan { begin: *begin, end: *begin + Duration::from_secs(8), fault: Fault::Restore })
        .collect();
    let (mut kinds, mut begin) = (Vec::new(), Duration::from_secs(1));
    let mut clocks_right_from = Duration::ZERO;
    while begin < length {
        let kind = kinds.pop().unwrap_or_else(|| {
            kinds = (0..KINDS).collect();
            dice.shuffle(&mut kinds);
            kinds.pop().unwrap()
        });
        let (fault, lasts) = fault(kind, &mut dice);
        let end = begin + dice.millis(lasts);
        let is_clock = matches!(fault, Fault::Clock(..));
        // With two clocks wrong, the third one is the one that is off the median. Then nothing is granted for minutes.
        if !is_clock || begin >= clocks_right_from {
            clocks_right_from = if is_clock { end } else { clocks_right_from };
            spans.push(FaultSpan { begin, end, fault });
        }
        begin += dice.millis(PAUSE);
    }
    spans.sort_by_key(|span| span.begin);
    spans
}

/// A fault of this kind, and how long it lasts in milliseconds.
fn fault(kind: usize, dice: &mut Dice) -> (Fault, Range<u64>) {
    let member = dice.below(COUNT);
    match kind {
        0 => (Fault::Network(cuts(dice, true)), 1_000..6_000),
        1 => (Fault::Network(cuts(dice, false)), 1_000..6_000),
        // Without one of them, the two others can agree, after an election if it was the leader.
        2 => (Fault::Network(isolated(Host::Store(dice.below(COUNT)))), 1_000..6_000),
        3 => (Fault::Network(isolated(Host::Member(member))), 1_000..6_000),
        4 => {
            let lossy = |(from, to)| Trouble::Loss { from, to };
            (Fault::Network(pairs(&side(dice)).into_iter().map(lossy).collect()), 1_000..6_000)
        }
        5 => {
            let late = side(dice).into_iter().map(|to| Trouble::Delay { to });
            (Fault::Network(late.collect()), 1_000..6_000)
        }
        6 => (Fault::Pause(Victim::Leader), 500..5_000),
        7 => (Fault::Pause(Victim::Follower), 500..5_000),
        8 => (Fault::Kill(Victim::Leader), 200..4_000),
        9 => (Fault::Kill(Victim::Follower), 200..4_000),
        10 => {
            let victim = *[Victim::StoreProcess(member), Victim::Keeper(member)].get(dice.below(2)).unwrap();
            let fault = if dice.percent(40) { Fault::Pause(victim) } else { Fault::Kill(victim) };
            (fault, 200..3_000)
        }
        11 => {
            let offset =
                if dice.percent(50) { ClockOffset::Ahead(OFFSET) } else { ClockOffset::Behind(OFFSET) };
            (Fault::Clock(member, offset), 3_000..10_000)
        }
        _ => (Fault::FullDisk, 2_000..8_000),
    }
}

/// One side of a partition of the six servers; neither side is empty.
fn side(dice: &mut Dice) -> Vec<Host> {
    let mut all = servers();
    dice.shuffle(&mut all);
    all.truncate(1 + dice.below(all.len() - 1));
    all
}

fn servers() -> Vec<Host> {
    [Host::STORES, Host::MEMBERS].concat()
}

/// From each server of this side to each one of the other side.
fn pairs(side: &[Host]) -> Vec<(Host, Host)> {
    let others: Vec<Host> = servers().into_iter().filter(|host| !side.contains(host)).collect();
    side.iter().flat_map(|from| others.iter().map(|to| (*from, *to))).collect()
}

/// A partition in both directions, or in one.
fn cuts(dice: &mut Dice, both_ways: bool) -> Vec<Trouble> {
    let pairs = pairs(&side(dice));
    let there = pairs.iter().map(|&(from, to)| Trouble::Cut { from, to });
    let back = pairs.iter().filter(|_| both_ways).map(|&(to, from)| Trouble::Cut { from, to });
    there.chain(back).collect()
}

fn isolated(host: Host) -> Vec<Trouble> {
    let there = pairs(&[host]).into_iter().flat_map(|(from, to)| [(from, to), (to, from)]);
    there.map(|(from, to)| Trouble::Cut { from, to }).collect()
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(troubles) => {
                let parts: Vec<String> = troubles
                    .iter()
                    .map(|trouble| match trouble {
                        Trouble::Cut { from, to } => format!("{}-x->{}", from.name(), to.name()),
                        Trouble::Loss { from, to } => format!("{}-?->{}", from.name(), to.name()),
                        Trouble::Delay { to } => format!("...->{}", to.name()),
                    })
                    .collect();
                f.write_str(&parts.join(" "))
            }
            Self::Pause(victim) => write!(f, "{victim} is paused"),
            Self::Kill(victim) => write!(f, "{victim} is killed"),
            Self::Clock(member, offset) => write!(f, "the clock of m{}: {offset:?}", member + 1),
            Self::FullDisk => f.write_str("the disk of n3 is full"),
            Self::Restore => f.write_str("a copy of the store is restored"),
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader => f.write_str("the leader"),
            Self::Follower => f.write_str("a follower"),
            Self::StoreProcess(member) => write!(f, "the store process of m{}", member + 1),
            Self::Keeper(member) => write!(f, "the keeper of m{}", member + 1),
        }
    }
}

#[test]
fn a_seed_makes_one_schedule_with_all_kinds_at_the_planned_times() {
    let length = Duration::from_secs(1_800);
    let restores = [Duration::from_secs(600), Duration::from_secs(1_200)];
    let spans = schedule(7, length, &restores);
    assert_eq!(spans, schedule(7, length, &restores));
    assert_ne!(spans, schedule(8, length, &restores));
    assert_eq!(spans.iter().filter(|span| span.fault == Fault::Restore).count(), 2);
    let others: Vec<&FaultSpan> = spans.iter().filter(|span| span.fault != Fault::Restore).collect();
    assert!((250..800).contains(&others.len()), "{}", others.len());
    for pair in others.windows(2) {
        let pause = pair[1].begin - pair[0].begin;
        // A clock that would be wrong together with another one is left out.
        assert!((Duration::from_secs(2)..Duration::from_secs(16)).contains(&pause), "{pause:?}");
    }
    for (kind, count) in [
        ("-x->", 60),
        ("-?->", 15),
        ("...->", 15),
        ("the leader is paused", 15),
        ("a follower is killed", 15),
        ("the store process of m", 5),
        ("the keeper of m", 5),
        ("the clock of m", 10),
        ("full", 15),
    ] {
        let found = spans.iter().filter(|span| span.fault.to_string().contains(kind)).count();
        assert!(found >= count, "{kind}: {found}");
    }
    let clocks: Vec<_> = spans.iter().filter(|span| matches!(span.fault, Fault::Clock(..))).collect();
    assert!(clocks.windows(2).all(|pair| pair[0].end <= pair[1].begin));
}

#[test]
fn a_partition_has_two_sides_and_one_way_cuts_one_direction() {
    let mut dice = Dice::new(1);
    for _ in 0..200 {
        let side = side(&mut dice);
        assert!((1..servers().len()).contains(&side.len()));
        let pairs = pairs(&side);
        assert_eq!(pairs.len(), side.len() * (servers().len() - side.len()));
        let one_way = cuts(&mut dice, false);
        for trouble in &one_way {
            let Trouble::Cut { from, to } = *trouble else { panic!("{trouble:?}") };
            assert!(!one_way.contains(&Trouble::Cut { from: to, to: from }));
        }
        let both = cuts(&mut dice, true);
        assert!(both.iter().all(|trouble| {
            let Trouble::Cut { from, to } = *trouble else { panic!("{trouble:?}") };
            both.contains(&Trouble::Cut { from: to, to: from })
        }));
    }
    assert_eq!(isolated(Host::Store(0)).len(), 10);
}
