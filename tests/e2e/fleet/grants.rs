//! A grant opens the port on all members; a revoked client is let in nowhere.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use spa_knock_core::knock::{AddressPolicy, Knock};

use super::laboratory::{FleetLab, FleetSettings, open_ssh};
use super::network::{Host, Trouble};
use super::volley::{Aim, Volley};
use crate::net::{Key, Namespace, SERVER_ID, full, within};

/// The bar: a grant is on all members this long after the reply.
const EVERYWHERE: Duration = Duration::from_millis(200);
/// The bar: a client that was revoked knocks in vain after this time.
const REVOKED: Duration = Duration::from_secs(2);
/// Other tests load the machine in a run that is not full.
const UNDER_LOAD: u32 = 3;

/// A bar, or more in a run that is not full.
fn bar(bar: Duration) -> Duration {
    if full() { bar } else { bar * UNDER_LOAD }
}

/// What the kernel of a member reports about its sets, with the time.
struct GrantEvents {
    monitor: Child,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl GrantEvents {
    fn new(space: &Namespace) -> Self {
        let mut monitor = space.spawn(Command::new("nft").arg("monitor").stdout(Stdio::piped()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (output, copy) = (BufReader::new(monitor.stdout.take().unwrap()), Arc::clone(&lines));
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                copy.lock().unwrap().push((Instant::now(), line));
            }
        });
        Self { monitor, lines }
    }

    /// When the address was added to a set.
    fn added(&self, address: Ipv4Addr) -> Option<Instant> {
        let address = format!(" {address} ");
        let lines = self.lines.lock().unwrap();
        let line =
            |(_, line): &&(Instant, String)| line.starts_with("add element") && line.contains(&address);
        lines.iter().find(line).map(|(time, _)| *time)
    }
}

impl Drop for GrantEvents {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

/// A knock that opens the port for this address alone.
fn listed(address: Ipv4Addr) -> Knock {
    Knock { policy: AddressPolicy::Listed, ipv4: Some(address), ..open_ssh() }
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0B00_0001 + u32::try_from(number).unwrap())
}

#[test]
fn a_grant_opens_the_port_on_all_members_soon_after_the_reply() {
    let Some(lab) = FleetLab::new(&FleetSettings::default()) else { return };
    let events = Host::MEMBERS.map(|host| GrantEvents::new(lab.network.of(host)));
    let count = if full() { 300 } else { 40 };
    let mut delays = Vec::new();
    // Until the monitors listen.
    thread::sleep(Duration::from_millis(300));
    for number in 0..count {
        let host = Host::MEMBERS[number % 3];
        let volley = Volley { client: &lab.network.client, keys: &lab.keys, aim: Aim::One(host.address()) };
        let shots = volley.fire(1, 1, |_| listed(address(number)));
        let (replied, _) = shots[0].granted.unwrap_or_else(|| panic!("{shots:?}"));
        for (member, events) in Host::MEMBERS.iter().zip(&events) {
            let opened = || events.added(address(number)).is_some();
            assert!(within(Duration::from_secs(2), opened), "{host:?}, {member:?}: not opened");
            let opened = events.added(address(number)).unwrap();
            delays.push(opened.saturating_duration_since(replied));
        }
    }
    delays.sort_unstable();
    let at = |percent: usize| delays[(delays.len() * percent / 100).min(delays.len() - 1)];
    println!(
        "grants on all members: p50 {:?}, p99 {:?}, at most {:?} after the reply, of {count} knocks",
        at(50),
        at(99),
        at(100)
    );
    assert!(at(99) <= bar(EVERYWHERE), "{:?}", at(99));
}

#[test]
fn with_grants_here_only_the_member_that_was_knocked_at_opens_the_port() {
    let settings = FleetSettings { fleet: "grants = \"here\"", ..FleetSettings::default() };
    let Some(lab) = FleetLab::new(&settings) else { return };
    let events = Host::MEMBERS.map(|host| GrantEvents::new(lab.network.of(host)));
    thread::sleep(Duration::from_millis(300));
    let volley = Volley { client: &lab.network.client, keys: &lab.keys, aim: Aim::All };
    let shots = volley.fire(5, 30, |number| listed(address(number)));
    thread::sleep(Duration::from_millis(500));
    for number in 0..30 {
        let opened: Vec<_> = Host::MEMBERS
            .iter()
            .zip(&events)
            .filter(|(_, events)| events.added(address(number)).is_some())
            .map(|(host, _)| host.name())
            .collect();
        assert_eq!(opened.len(), 1, "{number}: {opened:?}");
    }
    assert!(shots.iter().all(super::volley::Shot::is_granted), "{shots:?}");
}

/// Sends knocks of a client to one member until the end that is set then, and returns when they were granted.
fn grant_times(lab: &FleetLab, keys: &[Key], host: Host, end: &OnceLock<Instant>) -> Vec<Instant> {
    let volley = Volley { client: &lab.network.client, keys, aim: Aim::One(host.address()) };
    let shots = volley.fire_while(
        1,
        |_| {
            thread::sleep(Duration::from_millis(20));
            open_ssh()
        },
        |_| end.get().is_none_or(|end| Instant::now() < *end),
    );
    shots.iter().filter_map(|shot| Some(shot.granted?.0)).collect()
}

/// Adds a client to the fleet and waits until all members know it.
fn add_client(lab: &FleetLab, name: &str) -> [Key; 1] {
    let file = lab.folder().join(format!("{name}.key"));
    lab.run_admin(
        0,
        &["client", "add", name, "--fleet", "--allow", "open-ssh", "-o", file.to_str().unwrap()],
    );
    let keys = [Key::read(&file, SERVER_ID)];
    for host in Host::MEMBERS {
        let volley = Volley { client: &lab.network.client, keys: &keys, aim: Aim::One(host.address()) };
        let granted = || volley.fire(1, 1, |_| open_ssh())[0].is_granted();
        assert!(within(Duration::from_secs(5), granted), "{host:?} knows the client");
    }
    keys
}

/// Also by a member that was cut off from the store when the client was revoked.
#[test]
fn a_revoked_client_is_let_in_nowhere_later_than_two_seconds_after() {
    let Some(lab) = FleetLab::new(&FleetSettings::default()) else { return };
    let cut_off = |host| {
        let both = |store| [Trouble::Cut { from: store, to: host }, Trouble::Cut { from: host, to: store }];
        Host::STORES.map(both).concat()
    };
    for (name, troubles) in [("guest1", Vec::new()), ("guest2", cut_off(Host::Member(2)))] {
        let keys = add_client(&lab, name);
        lab.network.apply(&troubles);
        let end = OnceLock::new();
        let (revoked, granted) = thread::scope(|scope| {
            let (lab, keys, end) = (&lab, &keys, &end);
            let knocks = Host::MEMBERS.map(|host| scope.spawn(move || grant_times(lab, keys, host, end)));
            thread::sleep(Duration::from_secs(1));
            lab.run_admin(0, &["client", "revoke", name, "--fleet"]);
            let revoked = Instant::now();
            lab.network.apply(&[]);
            end.set(Instant::now() + 2 * bar(REVOKED)).unwrap();
            (revoked, knocks.map(|knocks| knocks.join().unwrap()))
        });
        let late: Vec<Duration> = granted
            .iter()
            .filter_map(|times| Some(times.last()?.saturating_duration_since(revoked)))
            .collect();
        println!(
            "{name}: last grants {late:?} after it was revoked, of {:?}",
            granted.each_ref().map(Vec::len)
        );
        assert!(!granted[0].is_empty() && !granted[1].is_empty(), "granted before");
        assert!(late.iter().all(|late| *late <= bar(REVOKED)), "{late:?}");
    }
}
