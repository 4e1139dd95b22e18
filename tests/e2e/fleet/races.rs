//! The race: all members receive each knock, while everything fails. No knock is acted on twice. A fleet whose store
//! process reports every claim as won is found out by the same check.
//!
//! `SPA_KNOCK_SEED` repeats a schedule. With `SPA_KNOCK_FULL=1`, 50,000 knocks are raced in 30 minutes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use spa_knock_core::crypto::random;

use super::laboratory::{CLIENTS, FleetLab, FleetSettings};
use super::nemesis::Nemesis;
use super::relay::Relay;
use super::schedule::{Dice, Fault, FaultSpan, schedule};
use super::volley::Aim;
use crate::net::{Daemon, Key, full, knock};

/// How far clocks of clients are ahead, in milliseconds: such knocks are accepted for longer.
const AHEAD: std::ops::Range<u64> = 0..20_000;
/// Of 100 knocks, this many open a port; all others run the command.
const OPEN: usize = 10;

/// How many knocks are raced, and for how long.
struct Race {
    ids: u32,
    length: Duration,
    /// How late the latest copies arrive.
    latest: Duration,
    seed: u64,
}

impl Race {
    fn new() -> Self {
        let seed = std::env::var("SPA_KNOCK_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from_ne_bytes(random().unwrap()));
        println!("SPA_KNOCK_SEED={seed}");
        if full() {
            let minutes = |count: u64| Duration::from_secs(60 * count);
            return Self { ids: 50_000, length: minutes(30), latest: minutes(4), seed };
        }
        Self { ids: 500, length: Duration::from_secs(30), latest: Duration::from_secs(10), seed }
    }

    /// Sends all knocks through the relay, and waits until the last copy has arrived.
    fn run(&self, relay: &mut Relay, keys: &[Key], prefix: &str) {
        let mut dice = Dice::new(self.seed ^ 1);
        let start = Instant::now();
        for id in 0..self.ids {
            let mut knock = if dice.percent(OPEN) { knock("open-ssh") } else { knock("note") };
            knock.timestamp = knock.timestamp.plus(dice.millis(AHEAD));
            if knock.action.as_str() == "note" {
                knock.argument = format!("{prefix}{id}").parse().unwrap();
            }
            let datagram = keys[dice.below(CLIENTS)].seal(&knock);
            relay.deliver(datagram.as_bytes());
            relay.run_until(start + self.length * (id + 1) / self.ids);
        }
        if let Some(last) = relay.last_due() {
            let patience = if full() { self.latest } else { Duration::from_secs(12) };
            relay.run_until(last.min(Instant::now() + patience));
        }
    }

    fn faults(&self) -> Vec<FaultSpan> {
        let restores = if full() { vec![self.length / 3, self.length * 2 / 3] } else { Vec::new() };
        schedule(self.seed, self.length, &restores)
    }
}

/// Races while a nemesis carries out this schedule, and checks what was acted on, and that all is well afterwards.
fn race_with(race: &Race, spans: &[FaultSpan]) {
    let settings = FleetSettings { small_disk: true, ..FleetSettings::default() };
    let Some(mut lab) = FleetLab::new(&settings) else { return };
    let keys = std::mem::take(&mut lab.keys);
    let mut relay = Relay::new(&lab.network.client, race.seed, race.latest);
    let is_over = AtomicBool::new(false);
    let begun = thread::scope(|scope| {
        let racer = scope.spawn(|| {
            race.run(&mut relay, &keys, "k");
            is_over.store(true, Ordering::Relaxed);
        });
        let begun = Nemesis::new(&mut lab).run(spans, &is_over);
        racer.join().unwrap();
        begun
    });
    lab.keys = keys;
    let (commands, wins) = (lab.ledger.commands(), lab.ledger.wins());
    println!("faults: {begun:?}");
    println!(
        "raced {} ids among 3 members, {} copies: {} acted on, {} of them by command; twice: {} and {}; refused: {:?}",
        race.ids,
        relay.copies(),
        wins.acted,
        commands.acted,
        wins.twice.len(),
        commands.twice.len(),
        lab.ledger.refusals()
    );
    commands.assert_none_twice("commands");
    wins.assert_none_twice("knocks");
    // A keeper can be killed before it has written the record.
    let killed = begun.get("the keeper").copied().unwrap_or_default();
    assert!(wins.shared_alone.len() <= killed, "opened, but won by no member: {:?}", wins.shared_alone);
    all_is_well(&lab);
}

#[test]
fn no_knock_is_acted_on_twice_while_everything_fails_and_all_is_well_afterwards() {
    let race = Race::new();
    race_with(&race, &race.faults());
}

/// Claims that were made after the copy are lost with the restored store; copies of their knocks arrive later.
#[test]
fn no_knock_is_acted_on_twice_with_a_restored_copy_of_the_store() {
    if !full() {
        println!("skipped: SPA_KNOCK_FULL=1 waits until the floor of the restored store has passed");
        return;
    }
    let second = Duration::from_secs;
    let restore = FaultSpan { begin: second(2), end: second(12), fault: Fault::Restore };
    let race = Race { ids: 600, length: second(30), latest: second(28), ..Race::new() };
    race_with(&race, &[restore]);
}

/// Each of 20 knocks is granted after the fleet has found itself again.
fn all_is_well(lab: &FleetLab) {
    let healed = Instant::now();
    lab.wait_until_all_grant();
    println!("after healing: all members grant again after {:.1} s", healed.elapsed().as_secs_f64());
    let volley = super::volley::Volley { client: &lab.network.client, keys: &lab.keys, aim: Aim::All };
    let shots = volley.fire(1, 20, |_| knock("open-ssh"));
    let granted = shots.iter().filter(|shot| shot.is_granted()).count();
    println!("after healing: {granted} of 20 knocks granted");
    assert_eq!(granted, 20, "{shots:?}");
}

#[test]
fn a_store_process_that_reports_every_claim_as_won_is_found_out() {
    let usual = Path::new(Daemon::PROGRAM);
    let lying = usual.with_file_name("spa-knock-store-won");
    assert!(
        lying.exists(),
        "{0} is missing: cargo build --features always-won --bin spa-knock-store && cp {1}/spa-knock-store {0}, then build again",
        lying.display(),
        usual.parent().unwrap().display()
    );
    // The daemon looks for the other programs beside itself.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("spa-knockd");
    let watcher = usual.with_file_name("spa-knock-watcher");
    for (from, to) in [(usual, "spa-knockd"), (&lying, "spa-knock-store"), (&watcher, "spa-knock-watcher")] {
        std::fs::copy(from, folder.path().join(to)).unwrap();
    }
    let settings = FleetSettings { program: &program, ..FleetSettings::default() };
    let Some(mut lab) = FleetLab::with_store(&settings) else { return };
    for member in 0..lab.members.len() {
        lab.start_member(member);
    }
    lab.wait_until_all_grant();
    let race = Race { ids: 40, length: Duration::from_secs(4), ..Race::new() };
    let mut relay = Relay::new(&lab.network.client, race.seed, race.latest);
    race.run(&mut relay, &lab.keys, "k");
    let (commands, wins) = (lab.ledger.commands(), lab.ledger.wins());
    println!(
        "{} of {} commands run twice, {} of {} knocks won twice",
        commands.twice.len(),
        commands.acted,
        wins.twice.len(),
        wins.acted
    );
    assert!(commands.twice.len() > 20, "{commands:?}");
    assert!(wins.twice.len() >= commands.twice.len(), "{wins:?}");
}
