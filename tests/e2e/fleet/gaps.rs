//! The loss of etcd's leader: how long no knock is granted.

use std::thread;
use std::time::{Duration, Instant};

use super::laboratory::{FleetLab, FleetSettings, open_ssh};
use super::volley::{Aim, Volley, longest_gap};
use crate::net::full;

/// How long knocks are sent around each loss.
const LENGTH: Duration = Duration::from_secs(6);

#[test]
fn the_loss_of_the_leader_leaves_a_short_gap() {
    let Some(mut lab) = FleetLab::new(&FleetSettings::default()) else { return };
    let mut gaps = Vec::new();
    let keys = std::mem::take(&mut lab.keys);
    for kind in ["killed", "paused", "killed"] {
        let leader = lab.leader().expect("a leader");
        let end = Instant::now() + LENGTH;
        let FleetLab { network, stores, .. } = &mut lab;
        let volley = Volley { client: &network.client, keys: &keys, aim: Aim::All };
        let gap = thread::scope(|scope| {
            let knocks = scope.spawn(|| volley.fire_while(8, |_| open_ssh(), |_| Instant::now() < end));
            thread::sleep(Duration::from_millis(700));
            match kind {
                "killed" => stores[leader].kill(),
                _ => stores[leader].pause(),
            }
            longest_gap(&knocks.join().unwrap(), end)
        });
        match kind {
            "killed" => stores[leader].start(),
            _ => stores[leader].resume(),
        }
        println!("leader {kind}: longest time without a granted knock {:.0} ms", gap.as_secs_f64() * 1e3);
        gaps.push(gap);
        thread::sleep(Duration::from_secs(2));
    }
    // A loaded machine delays elections.
    let bar = Duration::from_millis(if full() { 2_500 } else { 5_000 });
    assert!(gaps.iter().all(|gap| *gap < bar), "{gaps:?}");
}
