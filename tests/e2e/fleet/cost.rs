//! What a claim costs, and how many knocks act in a second: the part of `benches/fleet.rs` that uses the laboratory.

use std::time::{Duration, Instant};

use super::laboratory::{FleetLab, FleetSettings, open_ssh};
use super::network::Host;
use super::volley::{Aim, Shot, Volley, percentile};
use crate::net::{Daemon, Key, NO_LIMITS, Site};

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// Knocks of each measurement of time.
    pub(crate) knocks: usize,
    /// How long knocks are counted.
    pub(crate) seconds: u64,
}

/// How many knocks are in flight then.
const IN_FLIGHT: usize = 96;
/// The bars: what the store adds to the median and to the 99th percentile.
const ADDED: [(usize, Duration); 2] = [(50, Duration::from_millis(3)), (99, Duration::from_millis(12))];
/// The bar for the number of knocks that act in a second.
const PER_SECOND: f64 = 500.0;

/// Measures and prints everything. Returns the missed bars.
pub(crate) fn measure(extent: Extent) -> Vec<String> {
    let settings = |fleet| FleetSettings { fleet, ..FleetSettings::default() };
    // The store runs during the first measurement, too: it uses some of the machine's time.
    let Some(mut lab) = FleetLab::with_store(&settings("grants = \"here\"")) else { return Vec::new() };
    let site = Site::new(NO_LIMITS, &crate::net::open_ssh(10));
    let member = Host::Member(0);
    let daemon = Daemon::start(lab.network.of(member), &site);
    let local = knocks(&lab, &[site.key("laptop")], member, extent.knocks);
    drop(daemon);
    for number in 0..lab.members.len() {
        lab.start_member(number);
    }
    lab.wait_until_all_grant();
    let keys = std::mem::take(&mut lab.keys);
    let claimed = knocks(&lab, &keys[..1], member, extent.knocks);
    let store = lab.ledger.store_times();
    println!(
        "of this the store: p50 {:.1} ms, p99 {:.1} ms",
        store[store.len() / 2],
        store[store.len() * 99 / 100]
    );
    let mut missed = Vec::new();
    for (percent, bar) in ADDED {
        let [local, claimed] = [&local, &claimed].map(|shots| percentile(shots, percent));
        let added = claimed.saturating_sub(local);
        println!(
            "knock to reply, p{percent}: {:.2} ms without a store, {:.2} ms with it: +{:.2} ms (bar: {bar:?})",
            millis(local),
            millis(claimed),
            millis(added)
        );
        missed.extend((added > bar).then(|| format!("p{percent}: +{added:?}")));
    }
    missed.extend(throughput(&lab, &keys, extent.seconds, "grants here"));
    drop(lab);
    let Some(lab) = FleetLab::new(&settings("")) else { return Vec::new() };
    missed.extend(throughput(&lab, &lab.keys, extent.seconds, "grants on all members"));
    missed
}

/// The replies to knocks, one after the other.
fn knocks(lab: &FleetLab, keys: &[Key], member: Host, count: usize) -> Vec<Shot> {
    let volley = Volley { client: &lab.network.client, keys, aim: Aim::One(member.address()) };
    let shots = volley.fire(1, count, |_| open_ssh());
    let granted = shots.iter().filter(|shot| shot.is_granted()).count();
    assert!(granted * 100 >= count * 99, "{granted} of {count} granted");
    shots
}

/// How many knocks are granted in a second; returns a text if that misses the bar.
fn throughput(lab: &FleetLab, keys: &[Key], seconds: u64, what: &str) -> Option<String> {
    let volley = Volley { client: &lab.network.client, keys, aim: Aim::InTurn };
    let (start, end) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
    let shots = volley.fire_while(IN_FLIGHT, |_| open_ssh(), |_| Instant::now() < end);
    let granted = shots.iter().filter(|shot| shot.is_granted()).count();
    let count = f64::from(u32::try_from(granted).unwrap());
    let per_second = count / start.elapsed().as_secs_f64();
    println!(
        "{what}: {per_second:.0} knocks/s act (bar: {PER_SECOND:.0}), {granted} of {} granted; p50 {:.1} ms, p99 {:.1} ms",
        shots.len(),
        millis(percentile(&shots, 50)),
        millis(percentile(&shots, 99))
    );
    (per_second < PER_SECOND).then(|| format!("{what}: {per_second:.0} knocks/s"))
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The bars are those of an optimized build, in `benches/fleet.rs`.
#[test]
fn the_cost_of_a_claim_is_measured() {
    let missed = measure(Extent { knocks: 100, seconds: 2 });
    println!("not optimized: missed {missed:?}");
}
