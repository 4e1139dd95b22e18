//! A client with a valid key that knocks as fast as it can, in a fleet: it costs the others nothing.

use std::time::{Duration, Instant};

use serde_json::Value;
use spa_knock_fleet::client::{Patience, RangeRequest};
use spa_knock_fleet::keys::StoreKey;

use super::laboratory::{FleetLab, FleetSettings, open_ssh};
use super::network::Host;
use super::volley::{Aim, Volley};
use crate::store_support::knocks::{login, space};

#[test]
fn one_client_does_not_take_the_room_of_all_others_while_the_store_hangs() {
    let Some(lab) = FleetLab::new(&FleetSettings::default()) else { return };
    lab.stores.iter().for_each(|store| store.pause());
    let aim = Aim::One(Host::Member(0).address());
    let crowd = Volley { client: &lab.network.client, keys: &lab.keys[..1], aim };
    let other = Volley { client: &lab.network.client, keys: &lab.keys[1..2], aim };
    let shots = std::thread::scope(|scope| {
        let crowd = scope.spawn(|| crowd.fire(60, 60, |_| open_ssh()));
        std::thread::sleep(Duration::from_millis(300));
        let other = other.fire(1, 1, |_| open_ssh());
        crowd.join().unwrap();
        other
    });
    lab.stores.iter().for_each(|store| store.resume());
    assert!(!shots[0].is_granted(), "the store hangs");
    // Repeated failures of a client are counted together, so that its first one is written alone.
    let details = |client: &str| -> Vec<String> {
        let of_client = |record: &Value| record["client"] == client;
        let found = lab.members[0].site.audit().into_iter().filter(of_client);
        found.filter_map(|record| Some(record["detail"].as_str()?.to_owned())).collect()
    };
    let crowd = details("client1");
    assert!(crowd.iter().any(|detail| detail.contains("16 knocks of this client wait")), "{crowd:?}");
    let other = details("client2");
    assert!(other.iter().all(|detail| !detail.contains("wait for the store already")), "{other:?}");
    assert!(!other.is_empty(), "it was refused because the store did not answer");
    lab.wait_until_all_grant();
}

#[test]
fn a_client_that_knocks_again_and_again_has_one_entry_in_the_store() {
    let Some(lab) = FleetLab::new(&FleetSettings::default()) else { return };
    let volley = Volley { client: &lab.network.client, keys: &lab.keys[3..4], aim: Aim::InTurn };
    let granted = volley.fire(4, 60, |_| open_ssh()).iter().filter(|shot| shot.is_granted()).count();
    assert!(granted > 50, "{granted} of 60");
    let client = lab.client(Some(&login("member")));
    let entries = || {
        let range = RangeRequest::new(space().grants());
        let found = lab.network.client.enter(|| client.range(&range, Patience::BACKGROUND)).unwrap().kvs;
        found.iter().filter(|kv| matches!(space().parse(&kv.key), Some(StoreKey::Grant(_)))).count()
    };
    let end = Instant::now() + Duration::from_secs(5);
    // Members that have not seen each other's grant yet can each leave one; so can the client that waited for the start.
    while entries() > 6 {
        assert!(Instant::now() < end, "{} entries after {granted} grants", entries());
        std::thread::sleep(Duration::from_millis(100));
    }
}
