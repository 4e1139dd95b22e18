//! Measures adding a grant in the keeper, from the authorized knock to the kernel's response: for one address, beside
//! ten thousand others, for a range of ports, for a prefix. Needs root.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark counts, reads the clock, and may fail loudly"
)]

#[path = "../tests/net/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the test network has more than this benchmark needs")]
mod net;
mod spread;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use net::Namespace;
use spa_knock::firewall::{Backend, GateSpec, Nftables};
use spa_knock_core::auth::{
    Action, ActionPart, Authentic, ClientKey, ClientRules, Decision, Effect, Grant, Judgment, Keeper, KeyAge,
    Policy, ReplayMemory, Term, Uses,
};
use spa_knock_core::crypto::{KeySet, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, Now, PrefixLengths, ReplyWanted, Steady, Timestamp,
};
use spa_knock_core::wire::Datagram;
use spread::Spread;

const MEASURED: u32 = 500;
const BESIDE: u32 = 10_000;
const NOW: u64 = 1_795_331_877_123;

fn main() {
    // `cargo test --benches` only checks that this starts.
    if std::env::args().any(|argument| argument == "--test") || !nix::unistd::geteuid().is_root() {
        return;
    }
    Namespace::new().enter(|| {
        let protect = vec!["tcp/22".parse().unwrap()];
        let mut firewall = Nftables::open().unwrap();
        firewall.load(&GateSpec { protect, ..GateSpec::default() }).unwrap();
        let mut exact = GrantSource::new("tcp/22", PrefixLengths::SINGLE);
        let mut ranges = GrantSource::new("tcp/8000-8999", PrefixLengths::SINGLE);
        let mut prefixes = GrantSource::new("tcp/22", PrefixLengths::SINGLE.with("/24").unwrap());
        measure(&mut firewall, &mut exact, 0, 1).print("a grant for one address and port", Some(100.0));
        measure(&mut firewall, &mut exact, 0, 1).print("the same again, renewed", Some(100.0));
        (MEASURED..MEASURED + BESIDE).for_each(|n| firewall.grant(&exact.grants(n)).unwrap());
        measure(&mut firewall, &mut exact, MEASURED + BESIDE, 1)
            .print("a grant for one address and port, beside 10,000", Some(100.0));
        measure(&mut firewall, &mut ranges, 0, 1)
            .print("a grant for a range of ports, beside 10,000", Some(1_000.0));
        measure(&mut firewall, &mut prefixes, 1 << 16, 1 << 8)
            .print("a grant for a prefix, beside 10,000 and 500 ranges", Some(1_000.0));
    });
}

fn measure(firewall: &mut Nftables, source: &mut GrantSource, first: u32, step: u32) -> Spread {
    let granted = |n: u32| {
        let grants = source.grants(first + n * step);
        let start = Instant::now();
        firewall.grant(&grants).unwrap();
        start.elapsed()
    };
    Spread::of((0..MEASURED).map(granted))
}

/// Grants of knocks that pass all checks, which is the only way to get one.
struct GrantSource {
    keeper: Keeper,
    keys: KeySet,
    nonce: u64,
}

impl GrantSource {
    fn new(ports: &str, grant_prefix: PrefixLengths) -> Self {
        let keys = PairSecret::new(Secret::from_bytes(&[7; 32])).keys(&"bastion".parse().unwrap());
        let rules = ClientRules {
            allow: ["open".parse().unwrap()].into(),
            sources: [AddressPolicy::Listed].into(),
            grant_prefix,
            rate: None,
            expires: None,
            uses: None,
            key_limit: None,
            grants: u32::MAX,
        };
        let client = ClientKey {
            name: "laptop".parse().unwrap(),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            signer: None,
            age: KeyAge::Current,
            otp: None,
            rules,
        };
        let hour = Duration::from_secs(3_600);
        let action = Action {
            parts: vec![ActionPart::Open { ports: vec![ports.parse().unwrap()], uses: Uses::Many }],
            term: Some(Term { usual: hour, max: hour }),
        };
        let policy = Policy {
            window: Duration::from_secs(30),
            reply: false,
            knock_range: None,
            own_addresses: std::collections::BTreeSet::new(),
            actions: [("open".parse().unwrap(), action)].into(),
            clients: vec![client],
        };
        Self { keeper: Keeper::new(policy, ReplayMemory::new(Timestamp::default())), keys, nonce: 0 }
    }

    /// The grants of a knock for the `n`th address.
    fn grants(&mut self, n: u32) -> Vec<Grant> {
        self.nonce += 1;
        let knock = Knock {
            timestamp: Timestamp::from_millis(NOW + self.nonce),
            reply: ReplyWanted::No,
            seconds: 0,
            otp: None,
            policy: AddressPolicy::Listed,
            ipv4: Some(Ipv4Addr::from(0x0A00_0001 + n)),
            ipv6: None,
            action: "open".parse().unwrap(),
            argument: Argument::none(),
        };
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.nonce.to_be_bytes());
        let datagram = Datagram::seal_with(&knock, &self.keys.client(), nonce, 0).unwrap();
        let authentic = Authentic::from_watcher(self.keys.fingerprint, datagram.as_bytes()).unwrap();
        let now = Now {
            wall: Timestamp::from_millis(NOW + self.nonce),
            steady: Steady::from_duration(Duration::ZERO),
        };
        let Judgment::Record(accepted) = self.keeper.judge(&authentic, "10.0.0.1:1".parse().unwrap(), now)
        else {
            panic!("not accepted");
        };
        let Decision::Execute(authorized) = self.keeper.decide(accepted, now) else { panic!("not allowed") };
        match authorized.effects() {
            [Effect::Open(grants)] => grants.clone(),
            _ => panic!("not an Open effect"),
        }
    }
}
