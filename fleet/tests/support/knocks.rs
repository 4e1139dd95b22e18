//! A fleet in a store, and knocks to claim in it.

use std::time::{SystemTime, UNIX_EPOCH};

use spa_knock_core::auth::ReplayDomain;
use spa_knock_core::crypto::{Fingerprint, random};
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::claim::{Claimant, KnockClaim};
use spa_knock_fleet::client::{Login, StoreClient, StoreError, StoreFault};
use spa_knock_fleet::init::{StoreRole, create_floor, enable_authentication, roles, user};
use spa_knock_fleet::keys::{ClaimKey, KeySpace};
use zeroize::Zeroizing;

pub fn space() -> KeySpace {
    KeySpace::new(&"prod".parse().unwrap())
}

pub fn claimant(member: &str) -> Claimant {
    Claimant { member: member.parse().unwrap(), boot: [7; 16] }
}

pub fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_millis(since.as_millis().try_into().unwrap())
}

/// A knock with this id, as every member that receives it claims it, with an attempt of its own.
pub fn claim(id: u64, timestamp: Timestamp) -> KnockClaim {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&id.to_be_bytes());
    let key = ClaimKey {
        timestamp,
        fingerprint: Fingerprint::from_bytes([1; 8]),
        domain: ReplayDomain::Datagrams,
        id: bytes,
    };
    KnockClaim { key, attempt: random().unwrap(), code: None, uses: None }
}

pub fn login(user: &str) -> Login {
    Login { user: user.to_owned(), password: Zeroizing::new(format!("{user}-password")) }
}

/// Roles, the users `member`, `admin` and `root`, and the first floor.
pub fn set_up(client: &StoreClient) {
    let fleet = "prod".parse().unwrap();
    let mut requests = roles(&fleet);
    requests.extend(user(&fleet, &login("member"), StoreRole::Member));
    requests.extend(user(&fleet, &login("admin"), StoreRole::Admin));
    create_floor(client, &space(), Timestamp::from_millis(1)).unwrap();
    requests.extend(enable_authentication(&Zeroizing::new("root-password".to_owned())));
    for request in requests {
        // A busy machine may need longer than the client waits.
        let sent =
            (0..5).map(|_| request.send(client)).find(|sent| !matches!(sent, Err(error) if is_late(error)));
        sent.unwrap().unwrap_or_else(|error| panic!("{}: {error}", request.purpose));
    }
}

fn is_late(error: &StoreError) -> bool {
    matches!(error.fault(), StoreFault::Timeout(_) | StoreFault::Unavailable(_))
}
