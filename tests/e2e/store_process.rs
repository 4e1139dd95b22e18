//! The store process, as the keeper drives it, with a real etcd on loopback.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spa_knock::os::net::seqpacket::{Channel, ReceiveResult};
use spa_knock::os::poll;
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::client::{Login, StoreClient};
use spa_knock_fleet::init::create_floor;
use spa_knock_fleet::keys::StoreKey;

use crate::net::SOON;
use crate::store_support::certificates::Certificates;
use crate::store_support::etcd::{self, Etcd, SLOW, client_of};
use crate::store_support::knocks::{claim, login, set_up, space, wall};

/// The user `nobody`.
const NOBODY: u32 = 65534;

/// A running store process and our end of its channel.
struct StoreChild {
    child: Child,
    channel: Option<Channel>,
    /// Messages that no one has asked for yet.
    unread: VecDeque<Value>,
    ticket: u64,
}

/// What is sent before `Start`.
struct Settings<'a> {
    urls: Vec<&'a str>,
    certificates: Option<&'a Certificates>,
    login: Option<Login>,
    member: &'a str,
    mark: Option<String>,
}

impl<'a> Settings<'a> {
    fn new(member: &'a str, urls: Vec<&'a str>) -> Self {
        Self { urls, certificates: None, login: None, member, mark: None }
    }
}

impl StoreChild {
    /// Starts it and waits until it runs.
    fn start(settings: &Settings<'_>) -> Self {
        let mut store = Self::spawn();
        let version = store.next();
        assert!(version["Version"].as_str().unwrap().ends_with("store messages 1"), "{version}");
        store.configure(settings);
        let running = store.next();
        assert!(running["Running"]["landlock"].is_string(), "{running}");
        store
    }

    fn spawn() -> Self {
        let (channel, theirs) = Channel::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_spa-knock-store"))
            .env_clear()
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(theirs)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, channel: Some(channel), unread: VecDeque::new(), ticket: 0 }
    }

    fn configure(&self, settings: &Settings<'_>) {
        for url in &settings.urls {
            self.send(&json!({"Endpoint": {"url": url, "addresses": []}}));
        }
        if let Some(certificates) = settings.certificates {
            for (part, file) in [("Ca", "ca.pem"), ("Certificate", "client.pem"), ("Key", "client.key")] {
                let text = std::fs::read_to_string(certificates.folder.join(file)).unwrap();
                self.send(&json!({"Tls": [part, text]}));
            }
        }
        if let Some(Login { user, password }) = &settings.login {
            self.send(&json!({"Login": {"user": user, "password": **password}}));
        }
        let user = nix::unistd::geteuid().is_root().then_some((NOBODY, NOBODY));
        self.send(&json!({"Start": {
            "fleet": "prod",
            "member": settings.member,
            "boot": "07".repeat(16),
            "window_ms": 30_000,
            "mark": settings.mark,
            "user": user,
            "version": "0.0.1",
        }}));
    }

    fn send(&self, message: &Value) {
        self.channel.as_ref().unwrap().send(message.to_string().as_bytes()).unwrap();
    }

    /// The next message; nothing if there is none within this time.
    fn receive(&mut self, within: Duration) -> Option<Value> {
        if let Some(unread) = self.unread.pop_front() {
            return Some(unread);
        }
        let channel = self.channel.as_ref().unwrap();
        let end = Instant::now() + within;
        let mut buffer = vec![0; 160 << 10];
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            poll::readable(&[std::os::fd::AsFd::as_fd(channel)], left).unwrap();
            match channel.try_recv(&mut buffer).unwrap() {
                ReceiveResult::Message(length) => {
                    return Some(serde_json::from_slice(&buffer[..length]).unwrap());
                }
                ReceiveResult::Nothing => {}
                ReceiveResult::Closed => panic!("the store process has exited: {:?}", self.child.wait()),
            }
        }
        None
    }

    fn next(&mut self) -> Value {
        self.receive(SOON).expect("no message")
    }

    /// The next message for which this returns something; the others stay unread.
    fn find<T>(&mut self, what: &str, mut wanted: impl FnMut(&Value) -> Option<T>) -> T {
        let end = Instant::now() + SOON;
        let mut others = VecDeque::new();
        loop {
            let left = end.checked_duration_since(Instant::now()).unwrap_or_default();
            let Some(message) = self.receive(left) else { panic!("no {what} among {others:?}") };
            if let Some(found) = wanted(&message) {
                others.append(&mut self.unread);
                self.unread = others;
                return found;
            }
            // Old reports describe what is over.
            if message.get("Report").is_none() {
                others.push_back(message);
            }
        }
    }

    /// The next report of this kind.
    fn report(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(what, |message| message.get("Report").filter(|report| wanted(report)).cloned())
    }

    /// The next policy entry or grant.
    fn entry(&mut self) -> Value {
        self.find("entry", |message| message.get("Entry").cloned())
    }

    /// The entries of the next complete reading.
    fn everything(&mut self) -> Vec<Value> {
        let mut entries = Vec::new();
        self.find("begin", |message| (message == "Begin").then_some(()));
        loop {
            let message = self.next();
            match message.get("Entry") {
                Some(entry) => entries.push(entry.clone()),
                None if message.get("Complete").is_some() => return entries,
                None => {}
            }
        }
    }

    /// Sends a claim, without waiting.
    fn ask(&mut self, id: u64, timestamp: Timestamp) -> u64 {
        let claim = claim(id, timestamp);
        self.ticket += 1;
        let attempt: String = claim.attempt.iter().map(|byte| format!("{byte:02x}")).collect();
        self.send(&json!({"Claim": {
            "ticket": self.ticket,
            "key": StoreKey::Claim(claim.key).to_string(),
            "attempt": attempt,
            "code": null,
            "uses": null,
        }}));
        self.ticket
    }

    fn outcome(&mut self, ticket: u64) -> Value {
        self.find("outcome", |message| {
            let claimed = message.get("Claimed").filter(|claimed| claimed["ticket"] == ticket)?;
            Some(claimed["outcome"].clone())
        })
    }

    /// Claims a knock and waits for the outcome.
    fn claim(&mut self, id: u64, timestamp: Timestamp) -> Value {
        let ticket = self.ask(id, timestamp);
        self.outcome(ticket)
    }

    /// A line of its `/proc/PID/status`.
    fn status(&self, name: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Drop for StoreChild {
    fn drop(&mut self) {
        self.channel = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A store of one member with a floor.
fn store_of_one(folder: &Path) -> Option<(Etcd, StoreClient)> {
    let program: PathBuf = etcd::program()?;
    let etcd = Etcd::alone(&program, folder);
    let client = etcd.client(None);
    create_floor(&client, &space(), Timestamp::from_millis(1)).unwrap();
    Some((etcd, client))
}

#[test]
fn of_two_members_that_claim_a_knock_one_wins_and_the_other_learns_which() {
    let folder = tempfile::tempdir().unwrap();
    let Some((etcd, _)) = store_of_one(folder.path()) else { return };
    let mut members = ["a", "b"].map(|member| StoreChild::start(&Settings::new(member, vec![&etcd.url])));
    let now = wall();
    let mut wins = [0, 0];
    for id in 0..50 {
        let tickets: Vec<_> = members.iter_mut().map(|member| member.ask(id, now)).collect();
        let outcomes: Vec<_> =
            members.iter_mut().zip(tickets).map(|(member, ticket)| member.outcome(ticket)).collect();
        let winner = outcomes.iter().position(|outcome| outcome == "Won").unwrap();
        wins[winner] += 1;
        assert_eq!(outcomes[1 - winner], json!({"Lost": (["a", "b"][winner])}));
    }
    assert_eq!(wins.iter().sum::<usize>(), 50);
    // Also long after.
    for member in &mut members {
        assert_ne!(member.claim(0, now), "Won");
    }
    assert_eq!(members[0].claim(1_000, Timestamp::from_millis(1)), "BelowFloor");
}

#[test]
fn policy_and_grants_reach_the_keeper_and_members_and_the_floor_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let Some((etcd, client)) = store_of_one(folder.path()) else { return };
    let put = |key: StoreKey, value: &[u8]| client.put(&space().path(&key), value, 0, SLOW).unwrap();
    put(StoreKey::PolicyClient("laptop".parse().unwrap()), &[1, 2]);
    put(StoreKey::PolicyClient("huge".parse().unwrap()), &vec![0; 70 << 10]);
    put(StoreKey::Grant([9; 12]), b"a grant without a lease was not written by a member");
    let mut a = StoreChild::start(&Settings::new("a", vec![&etcd.url]));
    let stray = json!({"key": format!("grant/{}", "09".repeat(12)), "value": support_hex(b"a grant without a lease was not written by a member"), "lease_left": 0});
    let laptop = json!({"key": "policy/client/laptop", "value": "0102", "lease_left": null});
    assert_eq!(a.everything(), [stray, laptop]);

    let mut b = StoreChild::start(&Settings::new("b", vec![&etcd.url]));
    b.everything();
    let (id, key) = ("0c".repeat(12), format!("grant/{}", "0c".repeat(12)));
    a.send(&json!({"Publish": {"id": id, "seconds": 30, "sealed": "00ff", "replaces": []}}));
    let written = json!({"key": key, "value": "00ff", "lease_left": null});
    assert_eq!([a.entry(), b.entry()], [written.clone(), written]);

    let mut late = StoreChild::start(&Settings::new("late", vec![&etcd.url]));
    let found = late.everything().into_iter().find(|entry| entry["key"] == key).unwrap();
    assert!((20..=40).contains(&found["lease_left"].as_u64().unwrap()), "{found}");

    a.send(&json!({"Withdraw": {"ids": [id]}}));
    let deleted = json!({"key": key, "value": null, "lease_left": null});
    assert_eq!([a.entry(), b.entry(), late.entry()], [deleted.clone(), deleted.clone(), deleted]);

    for (member, revision) in [(&mut a, 3), (&mut b, 4)] {
        member.send(&json!({"Describe": {
            "address": "10.0.0.1:62201", "policy_revision": revision, "policy_digest": "abcd"
        }}));
    }
    for member in [&mut a, &mut b] {
        let report = member.report("report of both members", |report| {
            report["members"].as_array().unwrap().len() == 2 && report["floor_ms"] == 1
        });
        let described: Vec<_> = report["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| (member["name"].as_str().unwrap(), member["policy_revision"].as_u64().unwrap()))
            .collect();
        assert_eq!(described, [("a", 3), ("b", 4)]);
        assert!(report["mark"].as_str().unwrap().ends_with(" 0000000000000001"), "{report}");
    }
}

#[test]
fn claims_are_refused_in_time_without_the_store_and_won_after_it_is_back() {
    let Some(program) = etcd::program() else { return };
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(&folder.path().join("certificates"));
    let mut members = Etcd::three(&program, folder.path(), &certificates);
    let client = client_of(&members, &certificates.identity("client"), None);
    members[0].wait_until_ready(&client);
    set_up(&client);
    let urls: Vec<_> = members.iter().map(|member| member.url.clone()).collect();
    let settings = Settings {
        certificates: Some(&certificates),
        login: Some(login("member")),
        ..Settings::new("a", urls.iter().map(String::as_str).collect())
    };
    let mut store = StoreChild::start(&settings);
    store.report("good report", |report| {
        let endpoints = report["endpoints"].as_array().unwrap();
        endpoints.len() == 3 && endpoints.iter().all(|endpoint| endpoint["problem"].is_null())
    });
    let now = wall();
    for id in 0..200 {
        assert_eq!(store.claim(id, now), "Won");
    }
    confined_and_small(&store);

    members.iter_mut().for_each(Etcd::kill);
    for id in 200..203 {
        let begun = Instant::now();
        let outcome = store.claim(id, now);
        assert!(begun.elapsed() < Duration::from_millis(1_200), "{:?}", begun.elapsed());
        assert!(outcome["Unknown"].is_string(), "{outcome}");
    }
    store.report("silence", |report| report["silent_ms"].as_u64().is_some_and(|ms| ms > 2_000));
    members.iter_mut().for_each(Etcd::start);
    members[0].wait_until_ready(&client_of(
        &members,
        &certificates.identity("client"),
        Some(&login("member")),
    ));
    // The first connections need longer than a claim waits, on a busy machine.
    let end = Instant::now() + SOON;
    let mut id = 1_000;
    while store.claim(id, now) != "Won" {
        assert!(Instant::now() < end, "no claim is won");
        id += 1;
    }
    assert_eq!(store.claim(0, now), json!({"Lost": "a"}));
    confined_and_small(&store);
}

/// What the kernel reports about its sandbox and memory.
fn confined_and_small(store: &StoreChild) {
    assert_eq!(store.status("Name"), "spa-knock-store");
    assert_eq!([store.status("Seccomp"), store.status("NoNewPrivs")], ["2", "1"]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(store.status(set), "0000000000000000", "{set}");
    }
    if nix::unistd::geteuid().is_root() {
        assert_eq!(store.status("CapBnd"), "0000000000000000");
        for ids in ["Uid", "Gid"] {
            assert_eq!(store.status(ids), [NOBODY.to_string().as_str(); 4].join(" "));
        }
        assert_eq!(store.status("Groups"), "");
    }
    for memory in ["VmHWM", "VmPeak"] {
        let kib: u64 = store.status(memory).trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 64 << 10, "{memory}: {kib} KiB");
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", store.child.id())).unwrap();
    let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim_start();
    for none in ["Max processes", "Max core file size"] {
        assert!(limit(none).starts_with("0 "), "{none}: {limits}");
    }
}

#[test]
fn a_store_that_cannot_be_reached_at_the_start_prevents_no_start() {
    let urls = vec!["http://127.0.0.1:9", "http://127.0.0.1:10"];
    let mut store = StoreChild::start(&Settings::new("a", urls));
    let outcome = store.claim(1, wall());
    assert!(outcome["Unknown"].is_string(), "{outcome}");
    let report = store.report("report", |report| report["endpoints"].as_array().unwrap().len() == 2);
    assert_eq!(report["silent_ms"], Value::Null);
    assert!(report["endpoints"][0]["problem"].is_string(), "{report}");
}

#[test]
fn another_store_than_before_is_reported_and_grants_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some((etcd, _)) = store_of_one(folder.path()) else { return };
    let mark = Some(format!("{:016x} {:016x} {:016x}", 1, 1, 1));
    let mut store = StoreChild::start(&Settings { mark, ..Settings::new("a", vec![&etcd.url]) });
    let outcome = store.claim(1, wall());
    assert!(outcome["Unknown"].as_str().unwrap().contains("another cluster"), "{outcome}");
    store.report("report of another store", |report| report["went_back"].is_string());
}

#[test]
fn messages_that_make_no_sense_end_the_process_with_a_reason() {
    let settings = Settings::new("a", vec!["http://127.0.0.1:9"]);
    let cases = [
        json!({"Claim": {"ticket": 1, "key": "otp/0", "attempt": "0", "code": null, "uses": null}}),
        json!({"Publish": {"id": "00", "seconds": 1, "sealed": "", "replaces": []}}),
        json!({"Endpoint": {"url": "http://127.0.0.1:9", "addresses": []}}),
        json!("nothing"),
    ];
    for case in cases {
        let mut store = StoreChild::start(&settings);
        store.send(&case);
        let reason = store.find("reason", |message| Some(message.get("Failed")?.as_str()?.to_owned()));
        assert_eq!(reason, "store process: received an invalid message", "{case}");
        assert!(!store.child.wait().unwrap().success());
    }
    let mut store = StoreChild::spawn();
    store.next();
    store.send(&json!({"Tls": ["Ca", "no certificate"]}));
    store.configure(&settings);
    let reason = store.find("reason", |message| Some(message.get("Failed")?.as_str()?.to_owned()));
    assert!(reason.starts_with("cert: contains no certificate"), "{reason}");
}

#[test]
fn it_exits_when_the_keeper_does() {
    let mut store = StoreChild::start(&Settings::new("a", vec!["http://127.0.0.1:9"]));
    store.channel = None;
    let end = Instant::now() + SOON;
    while store.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(store.child.wait().unwrap().success());
}

fn support_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
