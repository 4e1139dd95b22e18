//! Compares overlapping intervals with an oracle that stores, for each port of each address, who may use it until when.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use spa_knock_core::auth::AccessTarget;
use spa_knock_core::knock::{PortRange, Prefix, Protocol};

const ADDRESSES: u8 = 8;
const PORTS: u16 = 12;

#[allow(clippy::disallowed_methods, reason = "a test")]
fn at(seconds: u64) -> Steady {
    Steady::from_duration(Duration::from_secs(seconds))
}

/// One operation.
#[derive(Debug, Clone)]
enum Step {
    Open { client: u8, action: u8, prefix: (u8, u8), ports: (u16, u16), seconds: u64 },
    Close { client: u8 },
    CloseBy { client: u8, action: u8 },
    Wait { seconds: u64 },
}

/// The area of the intervals.
#[derive(Debug, Clone, Copy)]
enum Where {
    /// Single addresses.
    Spans,
    /// Nested prefixes.
    Nets,
    /// Both, on one interface.
    Linked,
}

fn step() -> impl Strategy<Value = Step> {
    let ports = (1..=PORTS, 1..=PORTS).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop_oneof![
        8 => (0..3_u8, 0..2_u8, (0..ADDRESSES, 125..=128_u8), ports, 1..60_u64).prop_map(
            |(client, action, prefix, ports, seconds)| Step::Open { client, action, prefix, ports, seconds }
        ),
        1 => (0..3_u8).prop_map(|client| Step::Close { client }),
        2 => (0..3_u8, 0..2_u8).prop_map(|(client, action)| Step::CloseBy { client, action }),
        3 => (1..20_u64).prop_map(|seconds| Step::Wait { seconds }),
    ]
}

fn client(number: u8) -> spa_knock_core::knock::ClientName {
    format!("client-{number}").parse().unwrap()
}

fn action(number: u8) -> spa_knock_core::knock::ActionName {
    format!("action-{number}").parse().unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(last)])
}

impl Where {
    /// The access for these addresses and ports, if it is an interval in this area.
    fn access(self, (first, length): (u8, u8), (low, high): (u16, u16)) -> Option<Access> {
        let from = Prefix::of(address(first), length);
        let target = AccessTarget::Ports(PortRange::between(Protocol::Tcp, low, high)?);
        let (access, kind) = match self {
            Self::Spans => (Access::new(address(first).into(), target), GrantKind::Range),
            Self::Nets => (Access::new(from, target), GrantKind::Prefix),
            Self::Linked => {
                (Access { link: NonZeroU32::new(3), ..Access::new(from, target) }, GrantKind::Linked)
            }
        };
        (GrantKind::of(&access) == kind).then_some(access)
    }
}

/// A model of the kernel: applies the changes that the daemon would send, and rejects those that the kernel would.
#[derive(Default)]
struct Model(BTreeMap<Element, Steady>);

impl Model {
    fn apply(&mut self, draft: &Draft, now: Steady) {
        // The kernel ignores expired elements.
        self.0.retain(|_, end| *end > now);
        for (element, op) in &draft.elements {
            match op {
                ElementOp::Delete => {
                    self.0.remove(element);
                }
                ElementOp::Add(left, _) => {
                    assert!(!self.0.keys().any(|other| overlap(other, element)), "{element:?} {:?}", self.0);
                    self.0.insert(element.clone(), now.plus(*left));
                }
                ElementOp::Renew(..) => panic!("intervals are not renewed"),
            }
        }
    }

    fn open_until(&self, address: IpAddr, port: u16, now: Steady) -> Option<Steady> {
        let covers = |element: &Element| match element::entry(element) {
            Some(ElementEntry::Interval(_, rectangle)) => {
                let (low, high) = rectangle.ports.bounds();
                rectangle.first <= address && address <= rectangle.last && low <= port && port <= high
            }
            _ => panic!("not an interval"),
        };
        let mut ends = self.0.iter().filter(|(element, end)| **end > now && covers(element));
        let end = ends.next().map(|(_, end)| *end);
        assert!(ends.next().is_none(), "two intervals for one port");
        end
    }
}

fn overlap(one: &Element, other: &Element) -> bool {
    let rectangle = |element: &Element| match element::entry(element) {
        Some(ElementEntry::Interval(area, rectangle)) => (area, rectangle),
        _ => panic!("not an interval"),
    };
    let ((area, one), (of, other)) = (rectangle(one), rectangle(other));
    let (a, b) = (one.ports.bounds(), other.ports.bounds());
    area == of && one.first <= other.last && other.first <= one.last && a.0 <= b.1 && b.0 <= a.1
}

/// When each port of each address closes, for each client and action.
type Oracle = BTreeMap<(IpAddr, u16, u8, u8), Steady>;

fn run(place: Where, steps: Vec<Step>) {
    let (mut records, mut model, mut oracle) = (GrantRecords::default(), Model::default(), Oracle::new());
    let mut now = at(1_000);
    for step in steps {
        match step {
            Step::Wait { seconds } => now = now.plus(Duration::from_secs(seconds)),
            Step::Open { client: who, action: by, prefix, ports, seconds } => {
                let Some(access) = place.access(prefix, ports) else { continue };
                let end = now.plus(Duration::from_secs(seconds));
                let holder = GrantHolder { client: client(who), action: action(by), end };
                let mut draft = Draft::default();
                let interval = Interval::of(&access, holder.clone()).unwrap();
                records.plane.open(&interval, now, &mut draft.patch);
                records.finish(&mut draft, now);
                model.apply(&draft, now);
                records.grants.hold(access, holder);
                for host in 0..ADDRESSES {
                    for port in ports.0..=ports.1 {
                        if access.from.contains(address(host)) {
                            let known = oracle.entry((address(host), port, who, by)).or_insert(end);
                            *known = end.max(*known);
                        }
                    }
                }
            }
            Step::Close { client: who } => {
                close(&mut records, &mut model, &|live| live.client == client(who), now);
                oracle.retain(|(_, _, of, _), _| *of != who);
            }
            Step::CloseBy { client: who, action: by } => {
                let which = |live: &ActiveGrant| live.client == client(who) && live.action == action(by);
                close(&mut records, &mut model, &which, now);
                oracle.retain(|(_, _, of, with), _| (*of, *with) != (who, by));
            }
        }
        for host in (0..ADDRESSES).map(address) {
            for port in 1..=PORTS {
                let ends = oracle.iter().filter(|((of, at, _, _), _)| (*of, *at) == (host, port));
                let expected = ends.map(|(_, end)| *end).max().filter(|end| *end > now);
                assert_eq!(model.open_until(host, port, now), expected, "{host} {port} at {now:?}");
            }
        }
    }
    // Records and kernel are equal, and the elements are read back unchanged.
    let live: BTreeMap<Element, Steady> =
        records.elements(now).map(|(element, holder)| (element, holder.end)).collect();
    model.0.retain(|_, end| *end > now);
    assert_eq!(live, model.0);
    let mut adopted = GrantRecords::default();
    for (element, holder) in records.elements(now) {
        adopted.adopt(element::entry(&element).unwrap(), holder, now);
    }
    let accesses = |records: &GrantRecords| {
        let ports = records.live(now).into_iter().flat_map(|live| {
            let AccessTarget::Ports(ports) = live.access.target else { panic!("a range") };
            let hosts = (0..ADDRESSES).map(address).filter(move |host| live.access.from.contains(*host));
            hosts.flat_map(move |host| ports.each().map(move |port| (host, port.port())))
        });
        ports.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(accesses(&adopted), accesses(&records));
}

fn close(records: &mut GrantRecords, model: &mut Model, which: &dyn Fn(&ActiveGrant) -> bool, now: Steady) {
    let (draft, _) = records.draft_close(which, now);
    model.apply(&draft, now);
    records.keep_close(which, now);
}

proptest! {
    // Each case checks each port of each address after each step.
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn each_port_is_open_exactly_as_long_as_its_longest_grant(
        place in prop_oneof![Just(Where::Spans), Just(Where::Nets), Just(Where::Linked)],
        steps in proptest::collection::vec(step(), 1..24),
    ) {
        run(place, steps);
    }
}

#[test]
fn overlapping_port_ranges_take_a_few_intervals_and_not_one_for_each_port() {
    let mut records = GrantRecords::default();
    let now = at(10);
    let mut most = 0;
    for round in 0..200_u16 {
        let ports = (8_000 + round % 7, 8_900 + round % 11);
        let access = Where::Spans.access((1, 128), ports).unwrap();
        let end = now.plus(Duration::from_secs(60 + u64::from(round) * 7 % 30));
        let holder = GrantHolder { client: client(1), action: action(1), end };
        let mut draft = Draft::default();
        records.plane.open(&Interval::of(&access, holder.clone()).unwrap(), now, &mut draft.patch);
        records.finish(&mut draft, now);
        records.grants.hold(access, holder);
        most = most.max(draft.elements.len());
    }
    assert!(most <= 40 && records.plane.count() <= 40, "{most} {}", records.plane.count());
}

#[test]
fn a_draft_that_the_kernel_refuses_leaves_nothing_behind() {
    let mut records = GrantRecords::default();
    let now = at(10);
    let interval = |ports, seconds| {
        let access = Where::Spans.access((1, 128), ports).unwrap();
        let end = now.plus(Duration::from_secs(seconds));
        Interval::of(&access, GrantHolder { client: client(1), action: action(1), end }).unwrap()
    };
    let mut kept = Draft::default();
    records.plane.open(&interval((1, 6), 30), now, &mut kept.patch);
    records.plane.open(&interval((8, 9), 90), now, &mut kept.patch);
    let before: Vec<_> = records.elements(now).collect();
    let mut dropped = Draft::default();
    records.plane.open(&interval((3, 10), 60), now, &mut dropped.patch);
    assert_ne!(records.elements(now).collect::<Vec<_>>(), before);
    records.drop(dropped);
    assert_eq!(records.elements(now).collect::<Vec<_>>(), before);
}
