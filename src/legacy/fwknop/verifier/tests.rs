//! The verifier against a naive oracle, which keeps the whole history.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::state;
use spa_knock_core::crypto::checksum;
use spa_knock_core::knock::Steady;
use spa_knock_fwknop::{CipherKey, Content, Digest, HmacKey, Port, Transport};

/// The keys of the stanzas.
const KEYS: [(&str, &str); 2] = [("first-key", "first-hmac-key"), ("second-key", "second-hmac-key")];
const WINDOW: u64 = 120;
/// When the tests begin, in seconds.
const START: u64 = 1_700_000_000;

/// An `access.conf`, read as the daemon reads it.
fn config(access: &str) -> Rc<FwknopConfig> {
    config_with(access, "")
}

fn config_with(access: &str, server: &str) -> Rc<FwknopConfig> {
    let folder = TempDir::new().unwrap();
    for (name, text) in [("fwknopd.conf", server), ("access.conf", access)] {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    let config = FwknopConfig::read(&folder.path().join("access.conf"));
    Rc::new(config.unwrap_or_else(|errors| panic!("{errors}")))
}

fn stanza((key, hmac): (&str, &str)) -> String {
    format!("SOURCE ANY\nKEY {key}\nHMAC_KEY {hmac}\nOPEN_PORTS tcp/22\n")
}

fn seal((key, hmac): (&str, &str), plain: &str, salt: u64) -> String {
    let hmac_key = HmacKey::new(Digest::Sha256, hmac.as_bytes());
    CipherKey::new(key.as_bytes()).unwrap().seal(plain, &salt.to_be_bytes(), &hmac_key)
}

/// A packet of this time that asks for port 22.
fn packet(keys: (&str, &str), time: u64, number: u64) -> String {
    let port = Port { transport: Transport::Tcp, number: 22 };
    let (user, allow) = ("alice".to_owned(), Ipv4Addr::new(192, 0, 2, 1));
    let message = Message { user, time, allow, content: Content::Access(vec![port]), timeout: None };
    seal(keys, &message.to_text(number, Digest::Sha256), number)
}

fn at(seconds: u64, steady: u64) -> Now {
    Now {
        wall: Timestamp::from_millis(seconds * 1_000),
        steady: Steady::from_duration(Duration::from_secs(steady)),
    }
}

fn judge(verifier: &mut Verifier, text: &str, now: Now) -> PacketJudgment {
    let (source, destination) = ("192.0.2.1:4000".parse().unwrap(), "192.0.2.2".parse().unwrap());
    let packet = ArrivedPacket { source, destination, text: text.as_bytes() };
    verifier.judge(&packet, now).expect("it is authentic")
}

fn new_verifier(config: &Rc<FwknopConfig>) -> Verifier {
    Verifier::new(Rc::clone(config), ReplayMemory::new(Timestamp::from_millis((START - 1_000) * 1_000)))
}

/// What can happen.
#[derive(Debug, Clone)]
enum VerifierEvent {
    /// A new packet with keys number `.0`, of a time that is this far from the server's.
    New(usize, i64),
    /// A packet that was sent before, by its number.
    Again(usize),
    /// The server's clock jumps.
    Clock(i64),
    /// The daemon starts again with what is on disk.
    Restart,
    /// The config is read again, with both stanzas or only the first.
    Reload(bool),
}

fn event() -> impl Strategy<Value = VerifierEvent> {
    prop_oneof![
        6 => (0_usize..2, -150_i64..150).prop_map(|(keys, ahead)| VerifierEvent::New(keys, ahead)),
        4 => any::<usize>().prop_map(VerifierEvent::Again),
        2 => (-200_i64..400).prop_map(VerifierEvent::Clock),
        1 => Just(VerifierEvent::Restart),
        1 => any::<bool>().prop_map(VerifierEvent::Reload),
    ]
}

/// The rule in its simplest form, for one pair of keys: everything that was accepted, and the floor.
#[derive(Default, Clone)]
struct Oracle {
    accepted: Vec<u64>,
    floor: u64,
    /// The floor that the last record on disk has.
    recorded: u64,
    high: u64,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever packets, clocks, restarts and reloads there are: no packet acts twice, and a packet acts if and only if
    /// its time is within the window, above the floor, and it has not acted.
    #[test]
    fn the_verifier_agrees_with_the_naive_rule(events in prop::collection::vec(event(), 1..120)) {
        let both = config(&format!("{}{}", stanza(KEYS[0]), stanza(KEYS[1])));
        let first = config(&stanza(KEYS[0]));
        let mut verifier = new_verifier(&both);
        let (mut now, mut steady, mut has_both) = (START, 0, true);
        let mut sent: Vec<(usize, u64, String, bool)> = Vec::new();
        let mut disk: Vec<Acceptance> = Vec::new();
        let start = START - 1_000;
        let mut oracles = [(); 2].map(|()| Oracle { floor: start, recorded: start, high: start, ..Oracle::default() });
        for event in events {
            // Slower than the limit of each key.
            steady += 60;
            let number = match event {
                VerifierEvent::Clock(by) => {
                    now = now.saturating_add_signed(by);
                    continue;
                }
                VerifierEvent::Restart => {
                    let mut memory = ReplayMemory::new(Timestamp::from_millis(start * 1_000));
                    disk.iter().for_each(|acceptance| memory.restore(acceptance));
                    verifier = Verifier::new(Rc::clone(if has_both { &both } else { &first }), memory);
                    oracles.iter_mut().for_each(|oracle| oracle.floor = oracle.recorded);
                    if !has_both {
                        oracles[1].floor = oracles[1].high;
                    }
                    continue;
                }
                VerifierEvent::Reload(with_both) => {
                    has_both = with_both;
                    let config = Rc::clone(if has_both { &both } else { &first });
                    verifier = Verifier::new(config, verifier.into_memory());
                    if !has_both {
                        oracles[1].floor = oracles[1].high;
                    }
                    continue;
                }
                VerifierEvent::New(keys, ahead) => {
                    let (time, number) = (now.saturating_add_signed(ahead), sent.len());
                    let text = packet(KEYS[keys], time, u64::try_from(number).unwrap());
                    sent.push((keys, time, text, false));
                    number
                }
                VerifierEvent::Again(number) if sent.is_empty() => {
                    let _ = number;
                    continue;
                }
                VerifierEvent::Again(number) => number % sent.len(),
            };
            let (keys, time, text, acted) = sent[number].clone();
            if keys == 1 && !has_both {
                continue;
            }
            let oracle = &mut oracles[keys];
            let expected = time.abs_diff(now) <= WINDOW
                && time > oracle.floor
                && !oracle.accepted.contains(&u64::try_from(number).unwrap());
            let PacketJudgment { acceptance, result } = judge(&mut verifier, &text, at(now, steady));
            prop_assert_eq!(result.is_ok(), expected, "{}: {:?}", number, result);
            prop_assert_eq!(acceptance.is_some(), expected);
            prop_assert!(!(expected && acted), "acted twice");
            disk.extend(acceptance);
            if expected {
                sent[number].3 = true;
                oracle.accepted.push(u64::try_from(number).unwrap());
                oracle.high = oracle.high.max(time);
                oracle.floor = oracle.floor.max(oracle.high - 2 * WINDOW);
                oracle.recorded = oracle.floor;
            }
        }
    }
}

#[test]
fn a_packet_of_a_time_far_ahead_does_not_lock_out_the_others_of_its_key() {
    let config = config(&stanza(KEYS[0]));
    let mut verifier = new_verifier(&config);
    let send = |verifier: &mut Verifier, time, number| {
        judge(verifier, &packet(KEYS[0], time, number), at(START, number)).result.map_err(|r| r.event)
    };
    assert_eq!(send(&mut verifier, START + 1_000_000, 1).unwrap_err(), AuditEvent::Stale);
    assert_eq!(send(&mut verifier, START + WINDOW + 1, 2).unwrap_err(), AuditEvent::Stale);
    assert!(send(&mut verifier, START + WINDOW, 3).is_ok());
    assert!(send(&mut verifier, START, 4).is_ok());
    assert!(send(&mut verifier, START - WINDOW + 1, 5).is_ok(), "behind, beside one that is ahead");
    assert_eq!(send(&mut verifier, START - WINDOW - 1, 6).unwrap_err(), AuditEvent::Stale);
}

#[test]
fn a_replay_is_refused_by_every_stanza_even_if_their_keys_differ_and_have_the_same_hmacs() {
    // RFC 2104 fills a key with zeros up to the block length.
    let padded = "Zmlyc3QtaG1hYy1rZXkA";
    let twin = stanza(KEYS[0]).replace("HMAC_KEY first-hmac-key", &format!("HMAC_KEY_BASE64 {padded}"));
    let config = config(&format!("{}{twin}", stanza(KEYS[0])));
    assert!(config.stanzas[0].keys != config.stanzas[1].keys);
    let mut verifier = new_verifier(&config);
    let text = packet(KEYS[0], START, 1);
    assert!(judge(&mut verifier, &text, at(START, 0)).result.is_ok());
    let PacketJudgment { acceptance, result } = judge(&mut verifier, &text, at(START, 60));
    assert_eq!((acceptance, result.unwrap_err().event), (None, AuditEvent::Replayed));
}

#[test]
fn memory_and_disk_do_not_grow_with_the_number_of_accepted_packets() {
    let config = config(&stanza(KEYS[0]));
    let folder = TempDir::new().unwrap();
    let now = crate::os::clock::now();
    let (mut state, memory) = state::open_in(folder.path(), config.window(), config.ahead()).unwrap();
    let mut verifier = Verifier::new(Rc::clone(&config), memory);
    let size = || fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let (mut sizes, mut accepted) = (Vec::new(), 0);
    let begin = now.wall.as_millis() / 1_000 + 1;
    for number in 0..4_000_u64 {
        // One second after the other, but all within the lease.
        let time = begin + number / 80;
        let judgment = judge(&mut verifier, &packet(KEYS[0], time, number), at(time, number));
        let Some(acceptance) = judgment.acceptance else { continue };
        state.record(&acceptance).unwrap();
        accepted += 1;
        state.run_due(verifier.memory(), now, verifier.ahead());
        state.settle();
        sizes.push(size().sum::<u64>());
        assert!(verifier.memory().acceptances().count() <= 256);
    }
    assert!(accepted > 3_000, "{accepted}");
    let early = sizes[..sizes.len() / 4].iter().max().unwrap();
    assert!(sizes.iter().all(|size| size <= early), "{early} bytes, later {:?}", sizes.iter().max());
    assert_eq!(verifier.limits.len(), 1);
}

#[test]
fn after_a_power_loss_packets_are_refused_for_minutes_even_without_aging() {
    let config = config_with(&stanza(KEYS[0]), "ENABLE_SPA_PACKET_AGING N;\n");
    assert!(config.window() > Duration::from_secs(86_400));
    let folder = TempDir::new().unwrap();
    let now = crate::os::clock::now();
    let (mut state, memory) = state::open_in(folder.path(), config.window(), config.ahead()).unwrap();
    let mut verifier = Verifier::new(Rc::clone(&config), memory);
    let seconds = now.wall.as_millis() / 1_000;
    // A client whose clock is an hour behind, and one whose clock is a minute ahead.
    for (number, time) in [(1, seconds - 3_600), (2, seconds + 60)] {
        let judgment = judge(&mut verifier, &packet(KEYS[0], time, number), now);
        assert!(judgment.result.is_ok());
        state.record(&judgment.acceptance.unwrap()).unwrap();
    }
    // One that is an hour ahead must send again once the lease covers its time.
    let late = judge(&mut verifier, &packet(KEYS[0], seconds + 3_600, 3), now).acceptance.unwrap();
    let until = || -> u64 {
        let lease = fs::read(folder.path().join("replay.lease")).unwrap();
        let lease = String::from_utf8_lossy(&lease).into_owned();
        lease.lines().find_map(|line| line.strip_prefix("until ")).unwrap().parse().unwrap()
    };
    assert!(until() < now.wall.as_millis() + 300_000, "{}", until());
    assert!(!state.reaches_for(late.key, late.timestamp));
    assert!(state.record(&late).is_err());
    // The lease is renewed once in a while.
    let now = Now { steady: now.steady.plus(Duration::from_secs(60)), ..now };
    state.run_due(verifier.memory(), now, verifier.ahead());
    state.settle();
    assert!(state.reaches_for(late.key, late.timestamp) && state.record(&late).is_ok());
    assert!(until() < now.wall.as_millis() + 300_000, "the lease of the other keys stays short: {}", until());
    let other = Fingerprint::from_bytes([9; 8]);
    assert!(!state.reaches_for(other, late.timestamp));
    // The power is lost with all of the journal.
    drop(state);
    let lease = folder.path().join("replay.lease");
    let text = fs::read_to_string(&lease).unwrap();
    let (body, _) = text.split_once("sum ").unwrap();
    let boot = body.lines().find(|line| line.starts_with("boot ")).unwrap();
    let body = body.replace(boot, "boot another");
    let sum: String = checksum(&[body.as_bytes()]).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(&lease, format!("{body}sum {sum}\n")).unwrap();
    let journal = folder.path().join("replay.journal");
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..96]).unwrap();
    let (_, memory) = state::open_in(folder.path(), config.window(), config.ahead()).unwrap();
    let in_minutes = Timestamp::from_millis(now.wall.as_millis() + 300_000);
    let check = |key| memory.check(key, ReplayDomain::Datagrams, in_minutes, &[1; 12]).is_ok();
    assert_eq!((check(late.key), check(other)), (false, true));
}
