//! Floods of those who have pair secrets of clients, but not their SSH keys.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use spa_knock_core::crypto::ClientKeys;
use spa_knock_core::knock::ReplyStatus;
use spa_knock_core::wire::open_reply;

use super::ssh::{KINDS, SshKey};
use super::{ALLOW, granted, keys, pair, site, stdout, write_config};
use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, NEIGHBOR4, SERVER_ID, SERVER4, Site, ask, ask_patiently, flood, full,
    knock, within,
};

/// The longest flood.
const FLOOD_MAX: Duration = Duration::from_secs(30);

/// How many of `times` knocks were granted during a flood from elsewhere: signed ones from the client's last address, and
/// those of a client without a public key.
fn granted_in_a_flood(
    lab: &Lab,
    (site, key): (&Site, &SshKey),
    wrong: &[Vec<u8>],
    rate: usize,
    times: usize,
) -> (usize, usize) {
    let (laptop, old) = (keys(site), site.key("old"));
    let attacker = lab.neighbor.udp(NEIGHBOR4);
    attacker.connect((SERVER4, KNOCK_PORT)).unwrap();
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (sent, counts) = thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let mut sent = 0;
            for part in wrong.chunks(rate / 20).cycle() {
                if done.load(Ordering::Relaxed) || start.elapsed() > FLOOD_MAX {
                    break;
                }
                flood(&attacker, part, rate, part.len());
                sent += part.len();
            }
            sent
        });
        thread::sleep(Duration::from_millis(300));
        let mut counts = (0, 0);
        for _ in 0..times {
            // As clients do: a knock that is lost on a busy machine is sent again.
            let send = |datagram: &[u8]| ask_patiently(&lab.client.udp(CLIENT4), SERVER4, datagram);
            let signed = key.seal(&knock("open-ssh"), &laptop);
            let reply =
                send(signed.as_bytes()).map(|bytes| open_reply(&bytes, &laptop.reply, signed.nonce()));
            counts.0 += usize::from(reply.is_some_and(|reply| reply.unwrap().status == ReplyStatus::Granted));
            counts.1 += usize::from(send(&old.good()).is_some());
            thread::sleep(Duration::from_millis(30));
        }
        done.store(true, Ordering::Relaxed);
        (flooding.join().unwrap(), counts)
    });
    let took = start.elapsed();
    assert!(took < FLOOD_MAX, "the flood ended before the last knock");
    println!(
        "{sent} knocks with wrong signatures in {took:?}; in the meantime, {counts:?} of {times} granted"
    );
    counts
}

fn wrong_signatures(keys: &[ClientKeys], count: usize) -> Vec<Vec<u8>> {
    let thief = SshKey::new(KINDS[0]);
    let sealed = |n: usize| thief.seal(&knock("open-ssh"), &keys[n % keys.len()]).as_bytes().to_vec();
    (0..count).map(sealed).collect()
}

#[test]
fn a_flood_of_a_thief_keeps_no_one_out() {
    let Some(lab) = Lab::new() else { return };
    let key = SshKey::new(KINDS[0]);
    let site = site(&key, "");
    let daemon = Daemon::start(&lab.server, &site);
    let keys = keys(&site);
    assert!(granted(&lab, CLIENT4, &key, &keys), "from now on, this is the client's last address");
    let (rate, times) = (10_000, if full() { 30 } else { 6 });
    let wrong = wrong_signatures(std::slice::from_ref(&keys), rate);
    assert_eq!(granted_in_a_flood(&lab, (&site, &key), &wrong, rate, times), (times, times));
    assert!(
        within(Duration::from_secs(2), || granted(&lab, NEIGHBOR4, &key, &keys)),
        "after the flood, from anywhere"
    );
    drop(daemon);
}

/// What could make the server forget from where a client knocked last.
#[derive(Debug, Clone, Copy)]
enum Event {
    Stop,
    Kill,
    Reload,
    EndOfTheWatcher,
    RotationOfAnotherKey,
    RotationWithAnOverlap,
}

#[test]
fn the_address_of_the_last_grant_is_not_forgotten() {
    let Some(lab) = Lab::new() else { return };
    let key = SshKey::new(KINDS[0]);
    let site = site(&key, "");
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(granted(&lab, CLIENT4, &key, &keys(&site)));
    let times = if full() { 20 } else { 6 };
    for event in [
        Event::Stop,
        Event::Kill,
        Event::Reload,
        Event::EndOfTheWatcher,
        Event::RotationOfAnotherKey,
        Event::RotationWithAnOverlap,
    ] {
        match event {
            Event::Stop => assert!(daemon.terminate().success()),
            Event::Kill => daemon.kill9(),
            Event::Reload => daemon.reload(),
            Event::EndOfTheWatcher => {
                let before: Option<Pid> = daemon.watcher();
                kill(before.unwrap(), Signal::SIGKILL).unwrap();
                let replaced = || daemon.watcher().is_some_and(|watcher| Some(watcher) != before);
                assert!(within(Duration::from_secs(5), replaced), "{}", daemon.log());
                // It knows its keys.
                let works = || ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("old").good()).is_some();
                assert!(within(Duration::from_secs(5), works), "{}", daemon.log());
            }
            Event::RotationOfAnotherKey => {
                site.add_key("old");
                daemon.reload();
            }
            Event::RotationWithAnOverlap => {
                fs::copy(site.key_path("laptop"), site.key_path("before")).unwrap();
                site.add_key("laptop");
                let previous = "previous = { key = \"before.key\", until = 2100-01-01 }";
                write_config(&site, &format!("public_key = \"{}\"\n{previous}\n", key.public));
                daemon.reload();
            }
        }
        if daemon.has_exited() {
            daemon = Daemon::start(&lab.server, &site);
        }
        let wrong = wrong_signatures(&[keys(&site)], 5_000);
        let counts = granted_in_a_flood(&lab, (&site, &key), &wrong, 5_000, times);
        assert_eq!(counts, (times, times), "{event:?}: {}", daemon.log());
    }
    drop(daemon);
}

/// The clients whose pair secrets are stolen, beside `laptop` and `old`.
fn add_victims(site: &Site, key: &SshKey, count: usize) -> Vec<ClientKeys> {
    let names = (0..count).map(|n| format!("victim-{n}"));
    let mut entries = format!("public_key = \"{}\"\n", key.public);
    let server = SERVER_ID.parse().unwrap();
    let mut stolen = Vec::new();
    for name in names {
        site.add_key(&name);
        stolen.push(pair(site, &name).signed_keys(&server).client());
        entries +=
            &format!("[client.{name}]\nkey = \"{name}.key\"\n{ALLOW}\npublic_key = \"{}\"\n", key.public);
    }
    write_config(site, &entries);
    stolen
}

#[test]
fn the_thieves_of_many_pair_secrets_keep_out_no_other_client() {
    let Some(lab) = Lab::new() else { return };
    let key = SshKey::new(KINDS[0]);
    let site = site(&key, "");
    // Fewer where other tests run, too: a debug build judges 2,000 a second with half a processor.
    let stolen = add_victims(&site, &key, if full() { 1_000 } else { 5 });
    let daemon = Daemon::start(&lab.server, &site);
    assert!(granted(&lab, CLIENT4, &key, &keys(&site)));
    let (rate, times) = if full() { (20_000, 50) } else { (3_000, 10) };
    // The watcher counts a duplicate like another one; fewer are fresh even where making them takes long.
    let wrong = wrong_signatures(&stolen, rate * 2 / 5);
    assert_eq!(granted_in_a_flood(&lab, (&site, &key), &wrong, rate, times), (times, times));
    let (granted, refused) = (site.audit_of("granted"), site.audit_of("refused"));
    assert!(granted.iter().all(|record| record["client"] == "laptop" || record["client"] == "old"));
    assert!(refused.len() <= 3 * stolen.len(), "{} lines", refused.len());
    let status: serde_json::Value =
        serde_json::from_str(&stdout(&site, &lab, &["status", "--json"])).unwrap();
    println!("the watcher: {}", status["datagrams"]);
    drop(daemon);
}
