//! Measures the watcher's time for a datagram: an authentic one up to the end of step 3 compared with the bare HMAC,
//! and one with an unknown hint, with 10,000 clients. Then the keeper's time for steps 4 to 7, without and with an SSH
//! signature.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark counts, reads the clock, and may fail loudly"
)]

#[path = "../core/tests/policy/mod.rs"]
mod policy;
mod spread;
#[path = "../core/tests/ssh/mod.rs"]
mod ssh;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use spa_knock_core::auth::{
    Authentic, ClientKey, Dropped, Judgment, Keeper, KeyLimit, Reason, ReplayMemory, SshSigner, Touch,
    WatchedKey, Watcher,
};
use spa_knock_core::crypto::{KeySet, MacKey, PairSecret, Secret, random};
use spa_knock_core::knock::{AddressPolicy, Argument, Knock, Now, ReplyWanted, Steady, Timestamp};
use spa_knock_core::wire::{Datagram, Envelope};
use spread::Spread;
use ssh::{KINDS, SshKey};

const CLIENTS: u32 = 10_000;
const WINDOW: Duration = Duration::from_secs(30);
const NOW: Timestamp = Timestamp::from_millis(1_795_331_877_123);
/// Number of datagrams measured together: a single one is too short for the clock.
const TOGETHER: usize = 100;
const SAMPLES: usize = 500;

fn knock(timestamp: Timestamp) -> Knock {
    Knock {
        timestamp,
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Exact,
        ipv4: Some([203, 0, 113, 9].into()),
        ipv6: None,
        action: "open-ssh".parse().unwrap(),
        argument: Argument::none(),
    }
}

struct Crowd {
    keys: Vec<KeySet>,
}

impl Crowd {
    fn new() -> Self {
        let server = "bastion.example.org".parse().unwrap();
        let keys = |n: u32| {
            let mut secret = [0x5A; 32];
            secret[..4].copy_from_slice(&n.to_be_bytes());
            PairSecret::new(Secret::from_bytes(&secret)).keys(&server)
        };
        Self { keys: (0..CLIENTS).map(keys).collect() }
    }

    fn watcher(&self) -> Watcher {
        let mut watcher =
            Watcher::new(WINDOW, self.keys.iter().map(|keys| WatchedKey::of(keys, KeyLimit::default())));
        watcher.prepare(NOW);
        watcher
    }

    /// Signed knocks of different clients, of all lengths.
    fn knocks(&self, count: usize) -> Vec<(usize, Vec<u8>)> {
        let knock = knock(NOW);
        let sealed = |n: usize| {
            let client = n * 7_919 % self.keys.len();
            (client, Datagram::seal(&knock, &self.keys[client].client()).unwrap().as_bytes().to_vec())
        };
        (0..count).map(sealed).collect()
    }
}

/// Random datagrams with the length of a knock.
fn random_datagrams(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| random::<291>().unwrap()[..228 + n % 64].to_vec()).collect()
}

/// The watcher reads the clocks once for each batch of frames.
fn now() -> Now {
    Now { wall: NOW, steady: Steady::from_duration(Duration::ZERO) }
}

fn criterion_benches(criterion: &mut Criterion) {
    let crowd = Crowd::new();
    let knocks = crowd.knocks(TOGETHER * 20);
    let sign: Vec<MacKey> = crowd.keys.iter().map(|keys| MacKey::from(&keys.watcher().sign)).collect();
    let mut next = 0..;
    criterion.bench_function("the HMAC of a datagram", |bencher| {
        bencher.iter(|| hmac(&sign, &knocks[next.next().unwrap() % knocks.len()]));
    });
    criterion.bench_function("an authentic datagram up to the end of step 3", |bencher| {
        bencher.iter_custom(|times| {
            let mut left = usize::try_from(times).unwrap();
            let mut spent = Duration::ZERO;
            while left > 0 {
                // Each datagram is new to its watcher.
                let mut watcher = crowd.watcher();
                let batch = left.min(knocks.len());
                let start = Instant::now();
                for (_, datagram) in &knocks[..batch] {
                    assert!(black_box(watcher.judge(datagram, now())).is_ok());
                }
                spent += start.elapsed();
                left -= batch;
            }
            spent
        });
    });
    let unsigned = random_datagrams(4_096);
    let mut watcher = crowd.watcher();
    criterion.bench_function("an unknown hint with 10,000 clients", |bencher| {
        bencher.iter(|| {
            black_box(watcher.judge(&unsigned[next.next().unwrap() % unsigned.len()], now())).is_err()
        });
    });
}

fn hmac(sign: &[MacKey], (client, datagram): &(usize, Vec<u8>)) {
    let envelope = Envelope::read(datagram).unwrap();
    assert!(black_box(sign[*client].verify(&[envelope.signed], envelope.tag)));
}

/// The same three measurements as minimum, median and 99th percentile of batches, with their targets.
fn figures() {
    let crowd = Crowd::new();
    let knocks = crowd.knocks(TOGETHER * 20);
    let sign: Vec<MacKey> = crowd.keys.iter().map(|keys| MacKey::from(&keys.watcher().sign)).collect();
    let unsigned = random_datagrams(4_096);
    let mut watcher = crowd.watcher();

    let (mut bare, mut whole, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        let at = sample * TOGETHER % knocks.len();
        if at == 0 {
            watcher = crowd.watcher();
        }
        let batch = &knocks[at..at + TOGETHER];
        bare.push(each(|| batch.iter().for_each(|knock| hmac(&sign, knock))));
        whole.push(each(|| {
            for (_, datagram) in batch {
                assert!(black_box(watcher.judge(datagram, now())).is_ok());
            }
        }));
        let from = sample * TOGETHER % (unsigned.len() - TOGETHER);
        unknown.push(each(|| {
            for datagram in &unsigned[from..from + TOGETHER] {
                assert_eq!(black_box(watcher.judge(datagram, now())).err(), Some(Dropped::UnknownHint));
            }
        }));
    }
    let (bare, whole, unknown) = (Spread::of(bare), Spread::of(whole), Spread::of(unknown));
    bare.print("the HMAC of a datagram", None);
    whole.print("an authentic datagram up to the end of step 3", Some(2.0 * bare.median()));
    println!("  that is {:.2} × the HMAC", whole.median() / bare.median());
    unknown.print("an unknown hint with 10,000 clients", Some(0.1));
    keeper_figures();
}

/// Steps 4 to 7 in the keeper. A knock with a wrong signature costs as much as one with a right one, until the client
/// has no tokens left.
fn keeper_figures() {
    let source = "203.0.113.9:4000".parse().unwrap();
    let set = |signed: bool| {
        let pair = PairSecret::new(Secret::from_bytes(&[7; 32]));
        let server = "bastion".parse().unwrap();
        if signed { pair.signed_keys(&server) } else { pair.keys(&server) }
    };
    let knock = |n: u64| knock(NOW.plus(Duration::from_millis(n % 20_000)));
    let keeper = |keys: &KeySet, key: Option<&SshKey>| {
        let signer = key.map(|key| SshSigner {
            public_key: key.public.clone(),
            touch: Touch::Present,
            limit: KeyLimit::UNLIMITED,
        });
        let client = ClientKey { signer, ..policy::client("laptop", keys, &["open-ssh"]) };
        let policy = policy::policy([("open-ssh", policy::open("tcp/22"))], [client]);
        Keeper::new(policy, ReplayMemory::new(Timestamp::default()))
    };
    let measure = |keeper: &mut Keeper,
                   keys: &KeySet,
                   datagrams: &[Vec<u8>],
                   is_expected: &dyn Fn(&Judgment) -> bool| {
        let mut times = Vec::new();
        for datagram in datagrams {
            let knock = Authentic::from_watcher(keys.fingerprint, datagram).unwrap();
            let start = Instant::now();
            let judgment = black_box(keeper.judge(&knock, source, now()));
            times.push(start.elapsed());
            assert!(is_expected(&judgment));
        }
        Spread::of(times)
    };
    let recorded = |judgment: &Judgment| matches!(judgment, Judgment::Record(_));
    let refused = |judgment: &Judgment, reason| matches!(judgment, Judgment::Refuse(refusal) if refusal.rejection.reason() == reason);
    let wrong = |judgment: &Judgment| refused(judgment, Reason::Signature);
    let unverified = |judgment: &Judgment| refused(judgment, Reason::Unverified);

    let keys = set(false);
    let unsigned: Vec<Vec<u8>> =
        (0..2_000).map(|n| Datagram::seal(&knock(n), &keys.client()).unwrap().as_bytes().to_vec()).collect();
    measure(&mut keeper(&keys, None), &keys, &unsigned, &recorded)
        .print("keeper: a knock of version 1", None);
    let keys = set(true);
    let client = keys.client();
    for kind in KINDS {
        let (key, thief) = (SshKey::new(kind), SshKey::new(kind));
        let made = |key: &SshKey| -> Vec<Vec<u8>> {
            (0..2_000).map(|n| key.seal(&knock(n), &client).as_bytes().to_vec()).collect()
        };
        let name = kind.algorithm();
        measure(&mut keeper(&keys, Some(&key)), &keys, &made(&key), &recorded)
            .print(&format!("keeper: signed, {name}"), Some(120.0));
        let forged = made(&thief);
        let mut keeper = keeper(&keys, Some(&key));
        measure(&mut keeper, &keys, &forged[..50], &wrong)
            .print(&format!("keeper: wrong signature, {name}"), Some(120.0));
        measure(&mut keeper, &keys, &forged[50..], &unverified).print("keeper: not verified any more", None);
    }
}

fn each(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed() / u32::try_from(TOGETHER).unwrap()
}

criterion_group!(benches, criterion_benches);

fn main() {
    benches();
    Criterion::default().configure_from_args().final_summary();
    // `cargo test --benches` only checks that this starts.
    if !std::env::args().any(|argument| argument == "--test") {
        figures();
    }
}
