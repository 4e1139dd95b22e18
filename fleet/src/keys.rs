//! The keys of a fleet in the store. Numbers have a fixed number of hex digits, so that etcd sorts and compares them as
//! bytes like numbers.

use std::fmt;

use spa_knock_core::auth::{KnockId, ReplayDomain};
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::{ActionName, ClientName, Timestamp};

use crate::client::KeyRange;
use crate::names::{FleetName, MemberName};

/// Version 1 of the layout.
const ROOT: &str = "/spa-knock/1/";

/// One key of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreKey {
    /// The timestamp at or below which nothing is claimed any more.
    Floor,
    /// That a knock was claimed.
    Claim(ClaimKey),
    /// The last time step of a one-time password that was accepted.
    Otp(SeedId),
    /// How many times a key has acted.
    Uses(Fingerprint),
    /// What a knock has opened, everywhere.
    Grant(KnockId),
    /// That a member lives.
    Member(MemberName),
    /// A client of the policy.
    PolicyClient(ClientName),
    /// An action of the policy.
    PolicyAction(ActionName),
    /// A key that was revoked.
    PolicyRevoked(Fingerprint),
}

/// Identifies a knock among all of the fleet's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    /// When it was sent.
    pub timestamp: Timestamp,
    /// Whose it is.
    pub fingerprint: Fingerprint,
    /// Which of the replay memories it belongs to.
    pub domain: ReplayDomain,
    /// Its id.
    pub id: KnockId,
}

/// Identifies the seed of one-time passwords without revealing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeedId([u8; 8]);

impl SeedId {
    /// From these bytes, such as the checksum of the seed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

/// All keys of one fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySpace {
    /// `/spa-knock/1/<fleet>/`.
    prefix: String,
}

impl KeySpace {
    /// The keys of this fleet.
    #[must_use]
    pub fn new(fleet: &FleetName) -> Self {
        Self { prefix: format!("{ROOT}{fleet}/") }
    }

    /// A key as etcd has it.
    #[must_use]
    pub fn path(&self, key: &StoreKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What all keys begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key that etcd's bytes mean, if they are one of this fleet's.
    #[must_use]
    pub fn parse(&self, path: &[u8]) -> Option<StoreKey> {
        StoreKey::parse(path.strip_prefix(self.prefix.as_bytes())?)
    }

    /// Everything of the fleet.
    #[must_use]
    pub fn everything(&self) -> KeyRange {
        KeyRange::prefix(self.prefix.as_str())
    }

    /// What members watch: floor, grants, members, used codes and the policy, and not the claims, which are many and
    /// concern no one else.
    #[must_use]
    pub fn watched(&self) -> KeyRange {
        KeyRange::between(format!("{}floor", self.prefix), format!("{}uses/", self.prefix))
    }

    /// All grants.
    #[must_use]
    pub fn grants(&self) -> KeyRange {
        self.part("grant/")
    }

    /// The claims with a timestamp up to and including `floor`.
    #[must_use]
    pub fn claims_up_to(&self, floor: Timestamp) -> KeyRange {
        let claims = format!("{}claim/", self.prefix);
        match floor.as_millis().checked_add(1) {
            Some(next) => KeyRange::between(claims.clone(), format!("{claims}{next:016x}")),
            None => KeyRange::prefix(claims),
        }
    }

    /// The range that a right is granted for: `part` is a folder such as `claim/`, or the key `floor`.
    pub(crate) fn part(&self, part: &str) -> KeyRange {
        let path = format!("{}{part}", self.prefix);
        if part.ends_with('/') { KeyRange::prefix(path) } else { KeyRange::one(path) }
    }
}

impl StoreKey {
    fn parse(path: &[u8]) -> Option<Self> {
        let (folder, rest) = match path.iter().position(|byte| *byte == b'/') {
            Some(at) => (path.get(..at)?, path.get(at.checked_add(1)?..)?),
            None => (path, &[][..]),
        };
        let text = std::str::from_utf8(rest).ok()?;
        Some(match folder {
            b"floor" if path == b"floor" => Self::Floor,
            b"claim" => Self::Claim(ClaimKey::parse(text)?),
            b"otp" => Self::Otp(SeedId(bytes(text)?)),
            b"uses" => Self::Uses(Fingerprint::from_bytes(bytes(text)?)),
            b"grant" => Self::Grant(bytes(text)?),
            b"member" => Self::Member(text.parse().ok()?),
            b"policy" => match text.split_once('/')? {
                ("client", name) => Self::PolicyClient(name.parse().ok()?),
                ("action", name) => Self::PolicyAction(name.parse().ok()?),
                ("revoked", name) => Self::PolicyRevoked(Fingerprint::from_bytes(bytes(name)?)),
                _ => return None,
            },
            _ => return None,
        })
    }
}

impl ClaimKey {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let timestamp = Timestamp::from_millis(hex16(parts.next()?.as_bytes())?);
        let fingerprint = Fingerprint::from_bytes(bytes(parts.next()?)?);
        let domain = match parts.next()? {
            "0" => ReplayDomain::Datagrams,
            "1" => ReplayDomain::Ports,
            "2" => ReplayDomain::Codes,
            _ => return None,
        };
        let id = bytes(parts.next()?)?;
        parts.next().is_none().then_some(Self { timestamp, fingerprint, domain, id })
    }
}

impl fmt::Display for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Floor => f.write_str("floor"),
            Self::Claim(claim) => write!(f, "claim/{claim}"),
            Self::Otp(seed) => write!(f, "otp/{}", Hex(&seed.0)),
            Self::Uses(fingerprint) => write!(f, "uses/{fingerprint}"),
            Self::Grant(id) => write!(f, "grant/{}", Hex(id)),
            Self::Member(name) => write!(f, "member/{name}"),
            Self::PolicyClient(name) => write!(f, "policy/client/{name}"),
            Self::PolicyAction(name) => write!(f, "policy/action/{name}"),
            Self::PolicyRevoked(fingerprint) => write!(f, "policy/revoked/{fingerprint}"),
        }
    }
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let domain = match self.domain {
            ReplayDomain::Datagrams => '0',
            ReplayDomain::Ports => '1',
            ReplayDomain::Codes => '2',
        };
        write!(f, "{:016x}/{}/{domain}/{}", self.timestamp.as_millis(), self.fingerprint, Hex(&self.id))
    }
}

/// Bytes as lower-case hex digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The number that is written with exactly 16 lower-case hex digits.
pub(crate) fn hex16(text: &[u8]) -> Option<u64> {
    bytes(std::str::from_utf8(text).ok()?).map(u64::from_be_bytes)
}

/// The bytes that are written with exactly twice as many lower-case hex digits: each key has one spelling.
pub(crate) fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if Some(text.len()) != N.checked_mul(2) || !text.as_bytes().iter().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space() -> KeySpace {
        KeySpace::new(&"prod".parse().unwrap())
    }

    fn claim_keys() -> impl Strategy<Value = ClaimKey> {
        let domain =
            prop_oneof![Just(ReplayDomain::Datagrams), Just(ReplayDomain::Ports), Just(ReplayDomain::Codes)];
        (any::<u64>(), any::<[u8; 8]>(), domain, any::<KnockId>()).prop_map(
            |(ms, fingerprint, domain, id)| ClaimKey {
                timestamp: Timestamp::from_millis(ms),
                fingerprint: Fingerprint::from_bytes(fingerprint),
                domain,
                id,
            },
        )
    }

    fn store_keys() -> impl Strategy<Value = StoreKey> {
        let print = any::<[u8; 8]>().prop_map(Fingerprint::from_bytes);
        prop_oneof![
            Just(StoreKey::Floor),
            claim_keys().prop_map(StoreKey::Claim),
            any::<[u8; 8]>().prop_map(|seed| StoreKey::Otp(SeedId(seed))),
            print.clone().prop_map(StoreKey::Uses),
            any::<KnockId>().prop_map(StoreKey::Grant),
            "[a-z0-9][a-z0-9._-]{0,31}".prop_map(|name| StoreKey::Member(name.parse().unwrap())),
            "[A-Za-z0-9][A-Za-z0-9._-]{0,31}".prop_map(|name| StoreKey::PolicyClient(name.parse().unwrap())),
            "[a-z0-9_-]{1,32}".prop_map(|name| StoreKey::PolicyAction(name.parse().unwrap())),
            print.prop_map(StoreKey::PolicyRevoked),
        ]
    }

    #[test]
    fn the_layout_is_as_documented() {
        let claim = ClaimKey {
            timestamp: Timestamp::from_millis(0x0198_0000_0001),
            fingerprint: Fingerprint::from_bytes([0xab; 8]),
            domain: ReplayDomain::Ports,
            id: [0x0c; 12],
        };
        let cases = [
            (StoreKey::Floor, "floor"),
            (StoreKey::Claim(claim), "claim/0000019800000001/abababababababab/1/0c0c0c0c0c0c0c0c0c0c0c0c"),
            (StoreKey::Otp(SeedId([1; 8])), "otp/0101010101010101"),
            (StoreKey::Grant([2; 12]), "grant/020202020202020202020202"),
            (StoreKey::Member("b2".parse().unwrap()), "member/b2"),
            (StoreKey::PolicyClient("Laptop".parse().unwrap()), "policy/client/Laptop"),
            (StoreKey::PolicyRevoked(Fingerprint::from_bytes([3; 8])), "policy/revoked/0303030303030303"),
        ];
        for (key, path) in cases {
            assert_eq!(space().path(&key), format!("/spa-knock/1/prod/{path}"));
        }
    }

    #[test]
    fn what_is_no_key_of_the_fleet_is_rejected() {
        let cases = [
            "",
            "/spa-knock/1/prod/",
            "/spa-knock/1/prod/floor/",
            "/spa-knock/1/other/floor",
            "/spa-knock/1/prod/otp/01",
            "/spa-knock/1/prod/otp/010101010101010G",
            "/spa-knock/1/prod/otp/ABABABABABABABAB",
            "/spa-knock/1/prod/policy/client/a/b",
            "/spa-knock/1/prod/policy/x/a",
            "/spa-knock/1/prod/claim/0",
            "/spa-knock/1/prod/claim/0000019800000001/abababababababab/3/0c0c0c0c0c0c0c0c0c0c0c0c",
            "/spa-knock/1/prod/claim/0000019800000001/abababababababab/1/0c0c0c0c0c0c0c0c0c0c0c0c/",
        ];
        for path in cases {
            assert_eq!(space().parse(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn members_watch_everything_but_claims_and_uses() {
        let watched = |path: &str| space().watched().contains(format!("/spa-knock/1/prod/{path}").as_bytes());
        for path in ["floor", "grant/00", "member/a", "otp/00", "policy/client/a", "policy/revoked/00"] {
            assert!(watched(path), "{path}");
        }
        for path in ["claim/00", "uses/00"] {
            assert!(!watched(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn every_key_is_read_as_it_was_written(key in store_keys()) {
            prop_assert_eq!(space().parse(space().path(&key).as_bytes()), Some(key));
        }

        #[test]
        fn the_order_of_bytes_is_the_order_of_numbers(a in claim_keys(), b in claim_keys()) {
            let [x, y] = [a, b].map(|key| space().path(&StoreKey::Claim(key)));
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn exactly_the_claims_up_to_the_floor_are_garbage(key in claim_keys(), near in -2_i64..=2, far: u64) {
            for floor in [key.timestamp.as_millis().wrapping_add_signed(near), far, u64::MAX] {
                let floor = Timestamp::from_millis(floor);
                let garbage = space().claims_up_to(floor);
                let path = space().path(&StoreKey::Claim(key));
                prop_assert_eq!(garbage.contains(path.as_bytes()), key.timestamp <= floor);
            }
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(path: Vec<u8>) {
            let _ = space().parse(&[space().prefix.as_bytes(), &path].concat());
        }
    }
}
