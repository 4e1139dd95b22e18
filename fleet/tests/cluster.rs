//! Three real etcd with mutual TLS: races under failures, the loss of the leader, and what a claim costs.
//!
//! With `SPA_KNOCK_FULL=1`, many more knocks are raced.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::panic,
    reason = "tests panic on failure"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use spa_knock_fleet::claim::{ClaimOutcome, Claimer};
use spa_knock_fleet::client::{KeyRange, Patience, RangeRequest, StoreClient, StoreFault, TlsIdentity};
use spa_knock_fleet::keys::StoreKey;
use support::certificates::Certificates;
use support::etcd::{Etcd, SLOW, client_of, folder, program};
use support::knocks::{claim, claimant, login, set_up, space, wall};

struct Cluster {
    members: Vec<Etcd>,
    certificates: Certificates,
    tls: TlsIdentity,
    _folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// Each of these tests loads the machine with three etcd.
static ALONE: Mutex<()> = Mutex::new(());

fn cluster() -> Option<Cluster> {
    let program = program()?;
    let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let folder = folder();
    let certificates = Certificates::create(&folder.path().join("certificates"));
    let members = Etcd::three(&program, folder.path(), &certificates);
    let tls = certificates.identity("client");
    let cluster = Cluster { members, certificates, tls, _folder: folder, _alone: alone };
    let client = client_of(&cluster.members, &cluster.tls, None);
    cluster.members[0].wait_until_ready(&client);
    set_up(&client);
    Some(cluster)
}

impl Cluster {
    fn client(&self) -> StoreClient {
        let client = client_of(&self.members, &self.tls, Some(&login("member")));
        warm(&client);
        client
    }
}

/// Logs in at all endpoints, as the store process does every 10 s.
fn warm(client: &StoreClient) {
    for report in client.inspect(&space().path(&StoreKey::Floor), Patience::BACKGROUND) {
        assert!(!report.is_out_of_space());
        assert!(report.status.unwrap().leader != 0);
        report.quorum.unwrap();
        report.version.unwrap();
    }
}

fn is_full() -> bool {
    std::env::var_os("SPA_KNOCK_FULL").is_some_and(|value| value == "1")
}

#[test]
fn the_certificate_decides_and_the_traps_are_named() {
    let Some(cluster) = cluster() else { return };
    let read = |client: &StoreClient| {
        client.range(&RangeRequest::new(KeyRange::one(space().path(&StoreKey::Floor))), Patience::BACKGROUND)
    };
    assert!(read(&cluster.client()).is_ok());

    let named = client_of(&cluster.members, &cluster.certificates.identity("named"), Some(&login("member")));
    let error = read(&named).unwrap_err();
    assert_eq!(*error.fault(), StoreFault::CommonName);
    assert!(error.to_string().ends_with(
        "the client certificate has a CommonName, and etcd's gateway rejects all of these\n\
         hint: issue a client certificate with an empty subject; user and password identify the member"
    ));
    let outcome = Claimer::new(&named, space(), claimant("a")).decide(vec![claim(1, wall())]);
    assert_eq!(outcome, [ClaimOutcome::Unknown(StoreFault::CommonName)]);

    let folder = tempfile::tempdir().unwrap();
    let other = Certificates::create(folder.path());
    let foreign = client_of(&cluster.members, &other.identity("client"), Some(&login("member")));
    let error = read(&foreign).unwrap_err();
    assert!(matches!(error.fault(), StoreFault::Tls(_)), "{error}");

    let [ca, certificate] =
        ["ca.pem", "client.pem"].map(|file| std::fs::read(other.folder.join(file)).unwrap());
    let wrong_key = std::fs::read(other.folder.join("named.key")).unwrap();
    let error = TlsIdentity::from_pem(&ca, &certificate, &wrong_key).err().unwrap().to_string();
    assert!(error.starts_with("key: does not fit cert"), "{error}");
    // Our CA, so that we trust the store, and a certificate that it does not trust.
    let ca = std::fs::read(cluster.certificates.folder.join("ca.pem")).unwrap();
    let key = std::fs::read(other.folder.join("client.key")).unwrap();
    let untrusted = TlsIdentity::from_pem(&ca, &certificate, &key).unwrap();
    let untrusted = client_of(&cluster.members, &untrusted, Some(&login("member")));
    let error = read(&untrusted).unwrap_err();
    assert!(matches!(error.fault(), StoreFault::Tls(_)), "{error}");
}

/// All that was won, by knock: who acts.
#[derive(Default)]
struct Ledger(Mutex<BTreeMap<u64, Vec<&'static str>>>);

impl Ledger {
    fn record(&self, id: u64, member: &'static str, outcome: &ClaimOutcome) {
        let mut won = self.0.lock().unwrap();
        let winners = won.entry(id).or_default();
        if outcome.acts() {
            winners.push(member);
        }
    }

    /// The ids that were acted on more than once.
    fn twice(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().filter(|(_, won)| won.len() > 1).map(|(id, _)| *id).collect()
    }

    fn won(&self) -> usize {
        self.0.lock().unwrap().values().filter(|won| !won.is_empty()).count()
    }
}

#[test]
fn a_store_that_always_grants_is_found_out() {
    let ledger = Ledger::default();
    for member in ["a", "b", "c"] {
        ledger.record(1, member, &ClaimOutcome::Won);
        ledger.record(2, member, &ClaimOutcome::BelowFloor);
    }
    ledger.record(2, "a", &ClaimOutcome::Mine);
    assert_eq!((ledger.twice(), ledger.won()), (vec![1], 2));
}

#[test]
fn no_knock_is_won_twice_while_leaders_are_killed_and_paused() {
    let Some(mut cluster) = cluster() else { return };
    const MEMBERS: [&str; 3] = ["a", "b", "c"];
    const BATCH: u64 = 10;
    let rounds: u64 = if is_full() { 600 } else { 50 };
    let pause = Duration::from_millis(if is_full() { 100 } else { 250 });
    let clients = MEMBERS.map(|_| cluster.client());
    let observer = cluster.client();
    let (ledger, is_over, barrier) = (Ledger::default(), AtomicBool::new(false), Barrier::new(MEMBERS.len()));
    let unknown = Mutex::new(BTreeMap::<String, usize>::new());
    let start = wall();
    std::thread::scope(|scope| {
        let racers: Vec<_> = MEMBERS
            .iter()
            .zip(&clients)
            .map(|(member, client)| {
                let (ledger, barrier, unknown) = (&ledger, &barrier, &unknown);
                scope.spawn(move || {
                    let claimer = Claimer::new(client, space(), claimant(member));
                    for round in 0..rounds {
                        barrier.wait();
                        let ids: Vec<_> = (0..BATCH).map(|number| round * BATCH + number).collect();
                        // Each member has received the knocks in another order.
                        let claims = ids.iter().map(|id| claim(*id, start)).collect();
                        for (id, outcome) in ids.iter().zip(claimer.decide(claims)) {
                            if let ClaimOutcome::Unknown(fault) = &outcome {
                                *unknown.lock().unwrap().entry(fault.to_string()).or_default() += 1;
                            }
                            ledger.record(*id, member, &outcome);
                        }
                        std::thread::sleep(pause);
                    }
                })
            })
            .collect();
        let nemesis = scope.spawn(|| nemesis(&mut cluster.members, &observer, &is_over));
        racers.into_iter().for_each(|racer| racer.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        println!("nemesis: {:?}", nemesis.join().unwrap());
    });
    let raced = rounds * BATCH;
    println!(
        "raced {raced} ids among {} members: {} won, {} won twice; unknown outcomes: {:?}",
        MEMBERS.len(),
        ledger.won(),
        ledger.twice().len(),
        unknown.lock().unwrap()
    );
    assert_eq!(ledger.twice(), [0; 0]);
    assert!(ledger.won() > 0, "nothing was raced");

    // What was acted on is what the store has recorded.
    let (_, claims) = observer.read_all(&space().claims_up_to(start), SLOW).unwrap();
    let recorded: BTreeMap<u64, String> = claims
        .iter()
        .map(|kv| {
            let Some(StoreKey::Claim(key)) = space().parse(&kv.key) else { panic!() };
            let value = String::from_utf8(kv.value.clone()).unwrap();
            (u64::from_be_bytes(key.id[4..].try_into().unwrap()), value.split(' ').next().unwrap().to_owned())
        })
        .collect();
    for (id, won) in &*ledger.0.lock().unwrap() {
        assert!(
            won.iter().all(|member| recorded.get(id).is_some_and(|recorded| recorded == member)),
            "{id} {won:?}"
        );
    }
}

/// Pauses or kills the leader again and again, and lets it return. Returns how often.
fn nemesis(
    members: &mut [Etcd],
    observer: &StoreClient,
    is_over: &AtomicBool,
) -> BTreeMap<&'static str, usize> {
    let mut done = BTreeMap::new();
    for turn in 0_u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2_000));
        let Some(leader) = leader(members, observer) else { continue };
        let kind = if turn % 2 == 0 { "paused" } else { "killed" };
        if kind == "paused" {
            members[leader].pause();
            std::thread::sleep(Duration::from_millis(1_000 + turn * 637 % 2_500));
            members[leader].resume();
        } else {
            members[leader].kill();
            std::thread::sleep(Duration::from_millis(500 + turn * 391 % 1_500));
            members[leader].start();
        }
        *done.entry(kind).or_default() += 1;
    }
    done
}

/// The index of the leader, if one is known.
fn leader(members: &[Etcd], observer: &StoreClient) -> Option<usize> {
    let reports = observer.inspect(&space().path(&StoreKey::Floor), Patience::CLAIM);
    reports.iter().find_map(|report| {
        let status = report.status.as_ref().ok().filter(|status| status.leader == status.header.member_id)?;
        assert!(status.leader != 0);
        members.iter().position(|member| member.url == report.endpoint)
    })
}

#[test]
fn the_loss_of_the_leader_leaves_a_short_gap() {
    let Some(mut cluster) = cluster() else { return };
    let (client, observer) = (cluster.client(), cluster.client());
    let mut gaps = Vec::new();
    for (turn, kind) in ["killed", "paused", "killed"].into_iter().enumerate() {
        let leader = leader(&cluster.members, &observer).unwrap();
        // Claims go through the leader itself, which is the worst case.
        let is_over = AtomicBool::new(false);
        let gap = std::thread::scope(|scope| {
            let claims = scope.spawn(|| longest_gap(&client, turn as u64 * 1_000_000, &is_over));
            std::thread::sleep(Duration::from_millis(500));
            match kind {
                "killed" => cluster.members[leader].kill(),
                _ => cluster.members[leader].pause(),
            }
            std::thread::sleep(Duration::from_secs(5));
            is_over.store(true, Ordering::Relaxed);
            claims.join().unwrap()
        });
        match kind {
            "killed" => cluster.members[leader].start(),
            _ => cluster.members[leader].resume(),
        }
        println!("leader {kind}: longest time without a won claim {:.0} ms", gap.as_secs_f64() * 1e3);
        gaps.push(gap);
        std::thread::sleep(Duration::from_secs(2));
        warm(&observer);
        warm(&client);
    }
    // The bar is 2.5 s; a loaded machine delays elections.
    let bar = Duration::from_millis(if is_full() { 2_500 } else { 8_000 });
    assert!(gaps.iter().all(|gap| *gap < bar), "{gaps:?}");
}

/// Claims one knock after the other; returns the longest time from one success to the next.
fn longest_gap(client: &StoreClient, first: u64, is_over: &AtomicBool) -> Duration {
    let claimer = Claimer::new(client, space(), claimant("a"));
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    for id in first.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let outcome = claimer.decide(vec![claim(id, wall())]);
        if outcome[0].acts() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    longest.max(last.elapsed())
}

#[test]
fn a_claim_costs_one_round_trip() {
    let Some(cluster) = cluster() else { return };
    let client = cluster.client();
    let claimer = Claimer::new(&client, space(), claimant("a"));
    let count = if is_full() { 5_000 } else { 500 };
    let (mut times, mut late) = (Vec::new(), 0);
    for id in 0..count {
        let claim = claim(id, wall());
        let started = Instant::now();
        let outcome = claimer.decide(vec![claim]).pop().unwrap();
        match outcome {
            // The first try can be too slow and go through nevertheless.
            ClaimOutcome::Won | ClaimOutcome::Mine => times.push(started.elapsed()),
            ClaimOutcome::Unknown(StoreFault::Timeout(_) | StoreFault::Unavailable(_)) => late += 1,
            other => panic!("{id}: {other:?}"),
        }
    }
    assert!(times.len() > late, "{late} of {count} claims were not answered in time");
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e3;
    println!(
        "one claim: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms of {count}, {late} too late",
        at(50),
        at(90),
        at(99)
    );

    let (batches, mut won) = (50, 0);
    let started = Instant::now();
    for batch in 0..batches {
        let claims: Vec<_> = (0..64).map(|number| claim(1_000_000 + batch * 64 + number, wall())).collect();
        won += claimer.decide(claims).iter().filter(|outcome| outcome.acts()).count();
    }
    let per_second = won as f64 / started.elapsed().as_secs_f64();
    println!("in batches of 64: {per_second:.0} claims/s");
}
