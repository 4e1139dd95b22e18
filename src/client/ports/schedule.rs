//! The schedule of a port sequence: its eight ports, its time step, and the times of its packets. Pure except for
//! random numbers.

use std::net::IpAddr;
use std::time::Duration;

use crate::client::failure::{ClientError, ExitCause};
use crate::client::knock::plan::Claim;
use spa_knock_core::crypto::{PortKeys, random};
use spa_knock_core::knock::{ActionName, AddressPolicy, KnockRange, SLICES, TimeStep, Timestamp};
use spa_knock_core::wire::{proof, selector, sequence};

/// Packets per port: on a path that loses 5 % of all packets, one sequence in 1,000 does not arrive.
const ROUNDS: usize = 3;
/// Time that must be left of a time step, in addition to the time for sending.
const MARGIN: Duration = Duration::from_secs(1);

/// The time between two packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Gap {
    /// 2 to 10 ms, at random.
    Usual,
    /// A fixed time.
    Fixed(Duration),
}

impl Gap {
    /// Maximum gap: with a longer one, three rounds would not fit into a time step.
    pub(in crate::client) const MAX: Duration = Duration::from_secs(1);

    const fn longest(self) -> Duration {
        match self {
            Self::Usual => Duration::from_millis(10),
            Self::Fixed(gap) => gap,
        }
    }

    /// The time to wait, from two random bytes.
    fn pick(self, random: [u8; 2]) -> Duration {
        match self {
            // 65,536 values onto 8,001: no result is more likely than another by more than an eighth.
            Self::Usual => {
                Duration::from_micros(u64::from(u16::from_be_bytes(random) % 8_001).saturating_add(2_000))
            }
            Self::Fixed(gap) => gap,
        }
    }

    /// Maximum time for sending all packets.
    fn total(self) -> Duration {
        let packets = u32::try_from(ROUNDS.saturating_mul(SLICES)).unwrap_or(u32::MAX);
        self.longest().saturating_mul(packets)
    }
}

/// One packet: its port, and the time since the packet before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) struct Beat {
    pub(in crate::client) after: Duration,
    pub(in crate::client) port: u16,
}

/// The address in a port sequence; none under *observed*.
///
/// # Errors
/// If the claim has no address of the family of `own`, or lists addresses.
pub(in crate::client) fn address(claim: Claim, own: IpAddr) -> Result<Option<IpAddr>, ClientError> {
    let claimed = match own {
        IpAddr::V4(_) => claim.addresses.ipv4().map(IpAddr::V4),
        IpAddr::V6(_) => claim.addresses.ipv6().map(IpAddr::V6),
    };
    match (claim.policy, claimed) {
        (AddressPolicy::Observed, _) => Ok(None),
        (AddressPolicy::Exact, Some(address)) => Ok(Some(address)),
        (AddressPolicy::Exact, None) => {
            let (version, option) = if own.is_ipv4() { ("IPv4", "-6") } else { ("IPv6", "-4") };
            let reason =
                format!("--source: contains no {version} address, but the packets are sent from {own}");
            Err(ClientError::new(ExitCause::Usage, reason).hint(format!("add one, or knock with {option}")))
        }
        (AddressPolicy::Listed, _) => {
            let reason = "--source listed: a port sequence cannot carry a list of addresses";
            Err(ClientError::new(ExitCause::Usage, reason).hint("omit --ports, or use another source"))
        }
    }
}

/// The eight ports, in the order of their slices.
pub(in crate::client) fn ports(
    keys: &PortKeys,
    step: TimeStep,
    address: Option<IpAddr>,
    action: &ActionName,
    knock_range: KnockRange,
) -> [u16; SLICES] {
    let proof = proof(&keys.proof, step, address, action, knock_range);
    sequence(selector(&keys.selector, step, knock_range), &proof)
}

/// The first time step that has not been used and has enough time left, and the time until it begins.
pub(in crate::client) fn choose(
    now: Timestamp,
    gap: Gap,
    used: impl Fn(TimeStep) -> bool,
) -> (TimeStep, Duration) {
    let mut step = TimeStep::of(now);
    let left = step.after().begin().distance(now);
    if left < gap.total().saturating_add(MARGIN) {
        step = step.after();
    }
    while used(step) {
        step = step.after();
    }
    let wait = if step.begin() > now { step.begin().distance(now) } else { Duration::ZERO };
    (step, wait)
}

/// The packets: three rounds of all ports, each in a random order.
pub(in crate::client) fn beats(ports: [u16; SLICES], gap: Gap) -> Result<Vec<Beat>, ClientError> {
    let failed =
        |error: spa_knock_core::crypto::RandomError| ClientError::new(ExitCause::Network, error.to_string());
    let mut beats = Vec::with_capacity(ROUNDS.saturating_mul(SLICES));
    for _ in 0..ROUNDS {
        // Sorting by random numbers results in a random order.
        let mut order: Vec<([u8; 8], u16)> = Vec::with_capacity(SLICES);
        for port in ports {
            order.push((random().map_err(failed)?, port));
        }
        order.sort_unstable();
        for (_, port) in order {
            let after = if beats.is_empty() { Duration::ZERO } else { gap.pick(random().map_err(failed)?) };
            beats.push(Beat { after, port });
        }
    }
    Ok(beats)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use spa_knock_core::knock::SourceOption;

    const STEP: u64 = 59_844_395;

    fn at(seconds: f64) -> Timestamp {
        TimeStep::new(STEP).begin().plus(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn a_time_step_that_is_used_or_almost_over_is_skipped() {
        let usual = |seconds, used: &[u64]| {
            let (step, wait) = choose(at(seconds), Gap::Usual, |step| used.contains(&step.number()));
            (step.number() - STEP, wait.as_millis())
        };
        assert_eq!(usual(0.0, &[]), (0, 0));
        assert_eq!(usual(28.75, &[]), (0, 0));
        assert_eq!(usual(28.77, &[]), (1, 1_230));
        assert_eq!(usual(1.0, &[STEP]), (1, 29_000));
        assert_eq!(usual(1.0, &[STEP, STEP + 1]), (2, 59_000));
        assert_eq!(usual(1.0, &[STEP + 1]), (0, 0), "a later time step has no effect");
        let slow = choose(at(5.1), Gap::Fixed(Gap::MAX), |_| false);
        assert_eq!((slow.0.number(), slow.1.as_millis()), (STEP + 1, 24_900));
    }

    #[test]
    fn each_port_gets_three_packets_in_random_order_at_random_times() {
        let ports = [1, 2, 3, 4, 5, 6, 7, 8];
        let mut orders = BTreeSet::new();
        for _ in 0..100 {
            let beats = beats(ports, Gap::Usual).ok().unwrap();
            assert_eq!(beats.len(), 24);
            for round in beats.chunks(8) {
                let order: Vec<u16> = round.iter().map(|beat| beat.port).collect();
                assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from(ports));
                orders.insert(order);
            }
            assert_eq!(beats[0].after, Duration::ZERO);
            let usual = Duration::from_millis(2)..=Duration::from_millis(10);
            assert!(beats[1..].iter().all(|beat| usual.contains(&beat.after)));
        }
        assert!(orders.len() > 290, "{} orders of 300", orders.len());
        let fixed = beats(ports, Gap::Fixed(Duration::ZERO)).ok().unwrap();
        assert!(fixed.iter().all(|beat| beat.after.is_zero()));
    }

    #[test]
    fn a_sequence_contains_one_address_of_the_local_family_or_none() {
        let claim = |text: &str| {
            let (policy, addresses) = match text.parse().unwrap() {
                SourceOption::Exact(addresses) => (AddressPolicy::Exact, addresses),
                SourceOption::Listed(addresses) => (AddressPolicy::Listed, addresses),
                SourceOption::Auto | SourceOption::Observed => (AddressPolicy::Observed, Default::default()),
            };
            Claim { policy, addresses }
        };
        let own: IpAddr = "10.0.0.5".parse().unwrap();
        let address = |text| address(claim(text), own);
        assert_eq!(address("observed").ok(), Some(None));
        assert_eq!(address("203.0.113.9,2001:db8::1").ok(), Some("203.0.113.9".parse().ok()));
        for text in ["2001:db8::1", "listed:203.0.113.9"] {
            assert_eq!(address(text).unwrap_err().cause(), ExitCause::Usage, "{text}");
        }
    }
}
