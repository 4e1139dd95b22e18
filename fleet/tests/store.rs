//! Claims, watches, users and failures with a real etcd of one member.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "tests panic on failure"
)]

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use spa_knock_core::auth::ReplayDomain;
use spa_knock_core::crypto::Fingerprint;
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::claim::{
    ClaimOutcome, ClaimQueue, Claimer, CodeUse, CountedUse, KnockClaim, create_counter, number,
};
use spa_knock_fleet::client::{
    CompactionState, Endpoint, EndpointReport, KeyRange, Patience, StoreClient, StoreFault, Txn, TxnOp,
};
use spa_knock_fleet::init::{create_floor, try_rights};
use spa_knock_fleet::keys::{SeedId, StoreKey};
use spa_knock_fleet::members::{MemberRecord, OwnRecord};
use spa_knock_fleet::mirror::{Mirror, MirrorEvent};
use spa_knock_fleet::rollback::WentBack;
use spa_knock_fleet::{floor, grants, policy};
use support::etcd::{Etcd, SLOW, folder, program};
use support::knocks::{claim, claimant, login, set_up, space};

const T: Timestamp = Timestamp::from_millis(1_000_000);

struct Scene {
    etcd: Etcd,
    _folder: tempfile::TempDir,
}

/// A store with a floor, or nothing if there is no etcd here.
fn scene() -> Option<Scene> {
    let program = program()?;
    let folder = folder();
    let etcd = Etcd::alone(&program, folder.path());
    create_floor(&etcd.client(None), &space(), Timestamp::from_millis(1)).unwrap();
    Some(Scene { etcd, _folder: folder })
}

/// Claims knocks for the first time. On a busy machine, the first try can be too slow and go through nevertheless.
fn decide(client: &StoreClient, member: &str, claims: Vec<KnockClaim>) -> Vec<ClaimOutcome> {
    let first = |outcome| if outcome == ClaimOutcome::Mine { ClaimOutcome::Won } else { outcome };
    Claimer::new(client, space(), claimant(member)).decide(claims).into_iter().map(first).collect()
}

fn decide_one(client: &StoreClient, member: &str, claim: KnockClaim) -> ClaimOutcome {
    decide(client, member, vec![claim]).pop().unwrap()
}

fn copy(claim: &KnockClaim) -> KnockClaim {
    KnockClaim { key: claim.key, attempt: claim.attempt, code: claim.code, uses: claim.uses }
}

fn uses(known: u64, limit: u64) -> Option<CountedUse> {
    Some(CountedUse { fingerprint: Fingerprint::from_bytes([1; 8]), known, limit })
}

fn code(step: u64) -> Option<CodeUse> {
    Some(CodeUse { seed: SeedId::from_bytes([5; 8]), step })
}

#[test]
fn a_knock_is_won_once() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let first = claim(1, T);
    let again = copy(&first);
    let other_domain = KnockClaim {
        key: spa_knock_fleet::keys::ClaimKey { domain: ReplayDomain::Ports, ..first.key },
        ..claim(1, T)
    };
    assert_eq!(decide_one(&client, "a", first), ClaimOutcome::Won);
    assert_eq!(decide_one(&client, "b", claim(1, T)), ClaimOutcome::LostTo("a".parse().unwrap()));
    assert_eq!(decide_one(&client, "a", claim(1, T)), ClaimOutcome::LostTo("a".parse().unwrap()));
    assert_eq!(Claimer::new(&client, space(), claimant("a")).decide(vec![again]), [ClaimOutcome::Mine]);
    assert_eq!(decide_one(&client, "b", other_domain), ClaimOutcome::Won);
}

#[test]
fn a_store_that_was_wiped_grants_nothing() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    client.delete(space().everything(), SLOW).unwrap();
    assert_eq!(decide_one(&client, "a", claim(1, T)), ClaimOutcome::Missing(StoreKey::Floor));
    create_floor(&client, &space(), T).unwrap();
    assert_eq!(decide_one(&client, "a", claim(1, T)), ClaimOutcome::BelowFloor);
    assert_eq!(decide_one(&client, "a", claim(1, T.plus(Duration::from_millis(1)))), ClaimOutcome::Won);
    let missing = decide(
        &client,
        "a",
        vec![
            KnockClaim { code: code(1), ..claim(2, T.plus(Duration::from_secs(1))) },
            KnockClaim { uses: uses(0, 3), ..claim(3, T.plus(Duration::from_secs(1))) },
        ],
    );
    let [seed, fingerprint] = [SeedId::from_bytes([5; 8]), SeedId::from_bytes([1; 8])];
    assert_ne!(seed, fingerprint);
    let expected = [StoreKey::Otp(seed), StoreKey::Uses(Fingerprint::from_bytes([1; 8]))];
    assert_eq!(missing, expected.map(ClaimOutcome::Missing));
}

#[test]
fn codes_and_uses_are_used_up_with_the_claim() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    for key in [StoreKey::Otp(SeedId::from_bytes([5; 8])), StoreKey::Uses(Fingerprint::from_bytes([1; 8]))] {
        assert!(client.txn(&create_counter(&space(), &key, 0), SLOW).unwrap().succeeded);
        assert!(!client.txn(&create_counter(&space(), &key, 9), SLOW).unwrap().succeeded);
    }
    let cases = [
        (KnockClaim { code: code(7), ..claim(1, T) }, ClaimOutcome::Won),
        (KnockClaim { code: code(7), ..claim(2, T) }, ClaimOutcome::CodeUsed),
        (KnockClaim { code: code(6), ..claim(3, T) }, ClaimOutcome::CodeUsed),
        (KnockClaim { code: code(8), uses: uses(0, 3), ..claim(4, T) }, ClaimOutcome::Won),
        // This member does not know of the first use, and another one believes in too many.
        (KnockClaim { uses: uses(0, 3), ..claim(5, T) }, ClaimOutcome::Won),
        (KnockClaim { uses: uses(99, 3), ..claim(6, T) }, ClaimOutcome::Won),
        (KnockClaim { uses: uses(0, 3), ..claim(7, T) }, ClaimOutcome::UsesGone),
        (KnockClaim { uses: uses(0, 0), ..claim(8, T) }, ClaimOutcome::UsesGone),
    ];
    for (number, (claim, expected)) in cases.into_iter().enumerate() {
        assert_eq!(decide_one(&client, "a", claim), expected, "{number}");
    }
    let (_, found) = client
        .read_all(&KeyRange::one(space().path(&StoreKey::Uses(Fingerprint::from_bytes([1; 8])))), SLOW)
        .unwrap();
    assert_eq!(found[0].value, number(3).as_bytes());
}

#[test]
fn sixty_four_claims_with_everything_go_out_in_one_transaction() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let mut queue = ClaimQueue::default();
    for id in 0..70_u8 {
        let seed = SeedId::from_bytes([id; 8]);
        let fingerprint = Fingerprint::from_bytes([id; 8]);
        for key in [StoreKey::Otp(seed), StoreKey::Uses(fingerprint)] {
            client.txn(&create_counter(&space(), &key, 0), SLOW).unwrap();
        }
        let claim = KnockClaim {
            code: Some(CodeUse { seed, step: 1 }),
            uses: Some(CountedUse { fingerprint, known: 0, limit: 1 }),
            ..claim(u64::from(id), T)
        };
        queue.push(claim, ()).unwrap();
    }
    let mut batch = || queue.take_batch().into_iter().map(|(claim, ())| claim).collect::<Vec<_>>();
    for size in [64, 6] {
        let before = client.mark().unwrap().revision();
        let outcomes = decide(&client, "a", batch());
        assert_eq!(outcomes, vec![ClaimOutcome::Won; size]);
        assert_eq!(client.mark().unwrap().revision(), before + 1, "one transaction");
    }
}

#[test]
fn a_grant_on_a_lease_that_has_ended_is_not_published_and_its_claim_stays_won() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let won = claim(1, T);
    let id = won.key.id;
    assert_eq!(decide_one(&client, "a", won), ClaimOutcome::Won);
    let refused = client.txn(&grants::publish(&space(), id, b"sealed", 12_345), SLOW).unwrap_err();
    assert_eq!(*refused.fault(), StoreFault::NoLease);
    assert_eq!(decide_one(&client, "b", claim(1, T)), ClaimOutcome::LostTo("a".parse().unwrap()));
}

#[test]
fn the_floor_rises_only_and_deletes_the_claims_below() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let later = T.plus(Duration::from_millis(1));
    for (id, timestamp) in [(1, T), (2, T), (3, later)] {
        assert_eq!(decide_one(&client, "a", claim(id, timestamp)), ClaimOutcome::Won);
    }
    assert!(client.txn(&floor::raise(&space(), T), SLOW).unwrap().succeeded);
    let lower = client.txn(&floor::raise(&space(), Timestamp::from_millis(5)), SLOW).unwrap();
    assert_eq!((lower.succeeded, floor::existing(&lower)), (false, Some(T)));
    let (_, claims) = client.read_all(&space().claims_up_to(Timestamp::from_millis(u64::MAX)), SLOW).unwrap();
    let left: Vec<_> = claims.iter().map(|found| space().parse(&found.key)).collect();
    assert_eq!(left, [Some(StoreKey::Claim(claim(3, later).key))]);
    // The claim is deleted, and the floor refuses the knock in its place.
    assert_eq!(decide_one(&client, "b", claim(1, T)), ClaimOutcome::BelowFloor);
    assert_eq!(decide_one(&client, "b", claim(3, later)), ClaimOutcome::LostTo("a".parse().unwrap()));
}

#[test]
fn a_mirror_sees_grants_and_policy_and_reads_everything_after_a_compaction() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let mut mirror = Mirror::new(&client, space());
    let MirrorEvent::Everything { keys, .. } = mirror.wait() else { panic!() };
    assert_eq!(keys.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [StoreKey::Floor]);
    assert!(matches!(mirror.wait(), MirrorEvent::Idle), "the watch is open");

    let lease = client.grant_lease(60, SLOW).unwrap().id;
    let won = claim(1, T);
    let id = won.key.id;
    let asked = Instant::now();
    assert_eq!(decide_one(&client, "a", won), ClaimOutcome::Won);
    assert!(client.txn(&grants::publish(&space(), id, b"sealed", lease), SLOW).unwrap().succeeded);
    let changes = next_changes(&mut mirror);
    println!("claim to receipt: {:.1} ms", asked.elapsed().as_secs_f64() * 1e3);
    assert_eq!(changes, [(StoreKey::Grant(id), Some(b"sealed".to_vec()))], "no claim, no use");
    client.administer("/v3/lease/revoke", json!({"ID": lease.to_string()}).to_string().as_bytes()).unwrap();
    assert_eq!(next_changes(&mut mirror), [(StoreKey::Grant(id), None)]);

    // What changes while no watch is open is read afterward.
    let key = StoreKey::PolicyClient("laptop".parse().unwrap());
    while !matches!(mirror.wait(), MirrorEvent::Idle) {}
    assert!(client.txn(&policy::write(&space(), &key, None, b"1"), SLOW).unwrap().succeeded);
    assert!(!client.txn(&policy::write(&space(), &key, None, b"2"), SLOW).unwrap().succeeded);
    assert!(client.txn(&policy::write(&space(), &key, Some(b"1"), b"2"), SLOW).unwrap().succeeded);
    let mut seen = next_changes(&mut mirror);
    while seen.len() < 2 {
        seen.extend(next_changes(&mut mirror));
    }
    assert_eq!(seen, [(key.clone(), Some(b"1".to_vec())), (key.clone(), Some(b"2".to_vec()))]);

    let (revision, _) = client.read_all(&space().watched(), SLOW).unwrap();
    let mut behind = client.watch(&space().watched(), 1, Duration::from_secs(1)).unwrap();
    client
        .administer("/v3/kv/compaction", json!({"revision": revision.to_string()}).to_string().as_bytes())
        .unwrap();
    let mut compacted = client.watch(&space().watched(), 1, Duration::from_secs(1)).unwrap();
    let fault = loop {
        if let Err(error) = compacted.read() {
            break error.fault().clone();
        }
    };
    assert_eq!(fault, StoreFault::Compacted(revision));
    let _ = behind.read();
    assert!(client.txn(&policy::delete(&space(), &key, b"2"), SLOW).unwrap().succeeded);
    assert_eq!(next_changes(&mut mirror), [(key, None)]);
}

fn next_changes(mirror: &mut Mirror<'_>) -> Vec<(StoreKey, Option<Vec<u8>>)> {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match mirror.wait() {
            MirrorEvent::Changes { changes, .. } => {
                return changes
                    .into_iter()
                    .map(|(key, event)| (key, event.value().map(<[u8]>::to_vec)))
                    .collect();
            }
            MirrorEvent::Everything { .. } => panic!("everything was read again"),
            MirrorEvent::Idle | MirrorEvent::Lost(_) => assert!(Instant::now() < end, "no change"),
        }
    }
}

#[test]
fn a_mirror_continues_after_the_store_was_restarted() {
    let Some(mut scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let mut mirror = Mirror::new(&client, space());
    while !matches!(mirror.wait(), MirrorEvent::Idle) {}
    scene.etcd.kill();
    let MirrorEvent::Lost(error) = mirror.wait() else { panic!() };
    assert!(error.to_string().starts_with(&format!("store {}: ", scene.etcd.url)), "{error}");
    scene.etcd.start();
    scene.etcd.wait_until_ready(&client);
    let key = StoreKey::PolicyClient("laptop".parse().unwrap());
    client.txn(&policy::write(&space(), &key, None, b"1"), SLOW).unwrap();
    assert_eq!(next_changes(&mut mirror), [(key, Some(b"1".to_vec()))]);
}

#[test]
fn many_keys_are_read_in_pages() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let name = |number: usize| StoreKey::PolicyClient(format!("c{number:04}").parse().unwrap());
    for number in 0..600 {
        client.put(&space().path(&name(number)), b"x", 0, SLOW).unwrap();
    }
    let (_, found) = client.read_all(&space().watched(), SLOW).unwrap();
    let expected: BTreeSet<_> = (0..600).map(name).chain([StoreKey::Floor]).collect();
    assert_eq!(found.iter().filter_map(|kv| space().parse(&kv.key)).collect::<BTreeSet<_>>(), expected);
    assert_eq!(found.len(), 601);
}

#[test]
fn a_record_returns_after_its_lease_was_lost() {
    let Some(scene) = scene() else { return };
    let client = scene.etcd.client(None);
    let name = "a".parse().unwrap();
    let record = MemberRecord {
        version: "0.1.0".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        clock: 5,
        policy_revision: 1,
        policy_digest: "00".to_owned(),
    };
    let mut own = OwnRecord::new(&space(), &name);
    let path = space().path(&StoreKey::Member(name));
    for _ in 0..2 {
        own.publish(&client, &record).unwrap();
        own.publish(&client, &record).unwrap();
        let (_, found) = client.read_all(&KeyRange::one(path.as_str()), SLOW).unwrap();
        assert_eq!(found[0].value, record.to_value());
        assert!((20..=30).contains(&client.lease_left(found[0].lease, SLOW).unwrap()));
        client
            .administer("/v3/lease/revoke", json!({"ID": found[0].lease.to_string()}).to_string().as_bytes())
            .unwrap();
    }
}

#[test]
fn a_store_that_went_back_answers_nothing() {
    let Some(mut scene) = scene() else { return };
    let client = scene.etcd.client(None);
    assert_eq!(decide_one(&client, "a", claim(1, T)), ClaimOutcome::Won);
    scene.etcd.kill();
    let (data, saved) = (scene.etcd.data(), scene.etcd.data().with_extension("saved"));
    copy_folder(&data, &saved);
    scene.etcd.start();
    scene.etcd.wait_until_ready(&client);
    assert_eq!(decide_one(&client, "a", claim(2, T)), ClaimOutcome::Won);
    let mark = client.mark();

    scene.etcd.kill();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&saved, &data).unwrap();
    scene.etcd.start();
    scene.etcd.wait_until_ready(&scene.etcd.client(None));
    // The store would grant this knock again, and its write brings it up to the revision that was seen last.
    let known = mark.unwrap().revision();
    let went_back = StoreFault::WentBack(WentBack::Revision { known, found: known });
    assert_eq!(decide_one(&client, "b", claim(2, T)), ClaimOutcome::Unknown(went_back.clone()));
    assert_eq!(decide_one(&client, "b", claim(3, T)), ClaimOutcome::Unknown(went_back), "from now on");
    let error = client.read_all(&space().watched(), SLOW).unwrap_err().to_string();
    assert!(error.ends_with("hint: find out why, then run spa-knockd fleet accept-store"), "{error}");

    scene.etcd.kill();
    std::fs::remove_dir_all(&data).unwrap();
    scene.etcd.start();
    scene.etcd.wait_until_ready(&scene.etcd.client(None));
    create_floor(&scene.etcd.client(None), &space(), Timestamp::from_millis(1)).unwrap();
    let client = StoreClient::new(vec![scene.etcd.endpoint()], None, None, mark);
    let outcome = decide_one(&client, "a", claim(9, T));
    assert!(matches!(outcome, ClaimOutcome::Unknown(StoreFault::WentBack(_))), "{outcome:?}");
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn members_log_in_and_cannot_write_the_policy() {
    let Some(mut scene) = scene() else { return };
    set_up(&scene.etcd.client(None));
    let [member, admin] = ["member", "admin"].map(|user| scene.etcd.client(Some(&login(user))));
    let rights = try_rights(&member, &space(), &claimant("a"), T).unwrap();
    assert_eq!((rights.trial, rights.writes_policy), (ClaimOutcome::Won, Ok(false)));
    let bypass = rights.writes_policy_nested;
    let rights = try_rights(&admin, &space(), &claimant("a"), T).unwrap();
    assert_eq!((rights.trial, rights.writes_policy), (ClaimOutcome::Won, Ok(true)));
    let (_, claims) = admin.read_all(&space().claims_up_to(T), SLOW).unwrap();
    assert_eq!(claims, [], "a trial leaves nothing");
    let mut mirror = Mirror::new(&member, space());
    assert!(matches!(mirror.wait(), MirrorEvent::Everything { .. }));
    assert!(matches!(mirror.wait(), MirrorEvent::Idle), "members may watch");

    let wrong = spa_knock_fleet::client::Login { password: login("x").password, ..login("member") };
    let wrong = scene.etcd.client(Some(&wrong));
    let error = wrong.read_all(&space().watched(), SLOW).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "store {}: user name or password rejected\nhint: run spa-knockd fleet join again",
            scene.etcd.url
        )
    );
    let error = scene.etcd.client(None).read_all(&space().watched(), Patience::CLAIM).unwrap_err();
    assert_eq!(*error.fault(), StoreFault::Token, "no login");

    // The probe is right: a nested transaction writes the policy if, and only if, it reports so.
    let key = StoreKey::PolicyClient("nested".parse().unwrap());
    let nested = Txn::unconditional(vec![TxnOp::Txn(policy::write(&space(), &key, None, b"1"))]);
    let written = member.txn(&nested, SLOW);
    println!("etcd enforces rights in nested transactions: {}", written.is_err());
    assert_eq!(bypass, Ok(written.is_ok()));
    let (_, found) = admin.read_all(&KeyRange::one(space().path(&key)), SLOW).unwrap();
    assert_eq!(found.len(), usize::from(written.is_ok()));

    // etcd keeps tokens in memory: after its restart, the client logs in again.
    scene.etcd.kill();
    scene.etcd.start();
    scene.etcd.wait_until_ready(&member);
    assert_eq!(decide_one(&member, "a", claim(2, T)), ClaimOutcome::Won);
}

#[test]
fn a_full_database_refuses_writes_and_is_reported() {
    let Some(program) = program() else { return };
    let folder = folder();
    let etcd = Etcd::alone_with(&program, folder.path(), &["--quota-backend-bytes", "200000"]);
    let client = etcd.client(None);
    create_floor(&client, &space(), Timestamp::from_millis(1)).unwrap();
    let path = space().path(&StoreKey::Floor);
    let is_full = || client.inspect(&path, SLOW).iter().any(EndpointReport::is_out_of_space);
    assert!(!is_full());
    let error = (0..50).find_map(|_| client.put("/filler", &[7; 50_000], 0, SLOW).err()).unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "store {}: database space exceeded (NOSPACE)\nhint: compact and defragment etcd, then etcdctl alarm disarm",
            etcd.url
        )
    );
    // etcd 3.4 counts no writes in nested transactions against its quota.
    let outcome = decide_one(&client, "a", claim(1, T));
    println!("a claim in a full database: {outcome:?}");
    assert!(matches!(outcome, ClaimOutcome::Won | ClaimOutcome::Unknown(StoreFault::NoSpace)), "{outcome:?}");
    assert!(is_full());
    assert_eq!(client.compaction(&path), Ok(CompactionState::Fine), "it is still small");
}

#[test]
fn a_store_that_does_not_answer_is_waited_for_no_longer_than_a_second() {
    let Some(scene) = scene() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let silent = Endpoint::new(&url, &[]).unwrap();
    let closed = Endpoint::new("http://127.0.0.1:9", &[]).unwrap();

    // One that is silent, one that refuses, one that answers.
    let endpoints = vec![silent, closed, scene.etcd.endpoint()];
    let client = StoreClient::new(endpoints, None, None, None);
    let started = Instant::now();
    assert_eq!(decide_one(&client, "a", claim(1, T)), ClaimOutcome::Won);
    let first = started.elapsed();
    assert!(first >= Patience::CLAIM.each, "{first:?}");
    let started = Instant::now();
    assert_eq!(decide_one(&client, "a", claim(2, T)), ClaimOutcome::Won);
    println!("after a silent and a closed endpoint: {first:?}, then {:?}", started.elapsed());

    scene.etcd.pause();
    let started = Instant::now();
    let outcome = decide_one(&client, "a", claim(3, T));
    let waited = started.elapsed();
    scene.etcd.resume();
    assert!(matches!(outcome, ClaimOutcome::Unknown(_)), "{outcome:?}");
    println!("a paused store: {outcome:?} after {waited:?}");
    assert!(waited < Patience::CLAIM.total + Duration::from_millis(500), "{waited:?}");
}
