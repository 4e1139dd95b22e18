//! Carries out a schedule: each fault begins and ends at its time, whatever the others do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::clock::ClockOffset;
use super::laboratory::FleetLab;
use super::network::Trouble;
use super::schedule::{Fault, FaultSpan, Victim};
use crate::net::within;

/// Time limit for all members to notice that a copy of the store was restored, and for a store to answer again.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// The faults that have begun and not ended.
pub(super) struct Nemesis<'a> {
    lab: &'a mut FleetLab,
    troubles: BTreeMap<usize, Vec<Trouble>>,
    /// Processes that are stopped, by the number of the fault.
    paused: BTreeMap<usize, Pid>,
    killed_stores: BTreeMap<usize, usize>,
    killed_members: BTreeMap<usize, usize>,
    /// What has begun, by kind.
    begun: BTreeMap<String, usize>,
}

impl<'a> Nemesis<'a> {
    pub(super) fn new(lab: &'a mut FleetLab) -> Self {
        Self {
            lab,
            troubles: BTreeMap::new(),
            paused: BTreeMap::new(),
            killed_stores: BTreeMap::new(),
            killed_members: BTreeMap::new(),
            begun: BTreeMap::new(),
        }
    }

    /// Carries out all of it, or as much as there is time for; then ends what has begun. Returns how often each kind of
    /// fault has begun.
    pub(super) fn run(mut self, spans: &[FaultSpan], is_over: &AtomicBool) -> BTreeMap<String, usize> {
        let mut events: Vec<(Duration, usize, bool)> = spans
            .iter()
            .enumerate()
            .flat_map(|(number, span)| [(span.begin, number, true), (span.end, number, false)])
            .collect();
        events.sort_unstable();
        let mut start = Instant::now();
        for (time, number, begins) in events {
            while start.elapsed() < time && !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let fault = &spans[number].fault;
            println!("{:7.2} s {} {fault}", start.elapsed().as_secs_f64(), if begins { "+" } else { "-" });
            if *fault == Fault::Restore && !begins {
                let before = Instant::now();
                self.heal();
                self.restore();
                // The others keep their pauses.
                start += before.elapsed();
            } else if begins {
                self.begin(number, fault);
            } else {
                self.end(number, fault);
            }
        }
        self.heal();
        self.begun
    }

    fn begin(&mut self, number: usize, fault: &Fault) {
        let kind = match fault {
            Fault::Network(troubles) => match troubles.first() {
                Some(Trouble::Cut { .. }) => "cut".to_owned(),
                Some(Trouble::Loss { .. }) => "loss".to_owned(),
                _ => "delay".to_owned(),
            },
            Fault::Clock(..) => "clock".to_owned(),
            other => other.to_string().split(" of m").next().unwrap_or_default().to_owned(),
        };
        *self.begun.entry(kind).or_default() += 1;
        match fault {
            Fault::Network(troubles) => {
                self.troubles.insert(number, troubles.clone());
                self.apply_troubles();
            }
            Fault::Pause(victim) => {
                if let Some(process) = self.process(*victim).filter(|it| is_alive(*it)) {
                    let _ = kill(process, Signal::SIGSTOP);
                    self.paused.insert(number, process);
                }
            }
            Fault::Kill(victim) => self.kill(number, *victim),
            Fault::Clock(member, offset) => self.lab.members[*member].clock.set(*offset),
            Fault::FullDisk => self.lab.fill_disk(true),
            Fault::Restore => {
                let copy = self.lab.folder().join("copy");
                let _ = fs::remove_file(&copy);
                self.heal();
                self.lab.save_copy(&copy);
            }
        }
    }

    fn end(&mut self, number: usize, fault: &Fault) {
        match fault {
            Fault::Network(_) => {
                self.troubles.remove(&number);
                self.apply_troubles();
            }
            Fault::Pause(_) => self.resume(number),
            Fault::Kill(_) => self.start_again(number),
            Fault::Clock(member, _) => self.lab.members[*member].clock.set(ClockOffset::None),
            Fault::FullDisk => {
                self.lab.fill_disk(false);
                self.restart_stores_that_ended();
            }
            Fault::Restore => {}
        }
    }

    fn kill(&mut self, number: usize, victim: Victim) {
        match victim {
            Victim::Leader | Victim::Follower => {
                let Some(store) = self.store(victim) else { return };
                self.lab.stores[store].kill();
                self.killed_stores.insert(number, store);
            }
            // The keeper starts another one.
            Victim::StoreProcess(_) => {
                if let Some(process) = self.process(victim) {
                    let _ = kill(process, Signal::SIGKILL);
                }
            }
            Victim::Keeper(member) => {
                let store_process = self.lab.members[member].store_process();
                self.lab.members[member].kill();
                self.killed_members.insert(number, member);
                // One that is stopped does not notice the end of the keeper.
                if let Some(process) = store_process {
                    resume(process);
                }
            }
        }
    }

    fn start_again(&mut self, number: usize) {
        if let Some(store) = self.killed_stores.remove(&number)
            && !self.killed_stores.values().any(|other| *other == store)
            && self.lab.stores[store].id().is_none()
        {
            self.lab.stores[store].start();
        }
        if let Some(member) = self.killed_members.remove(&number)
            && !self.killed_members.values().any(|other| *other == member)
        {
            self.lab.launch_member(member);
        }
    }

    /// The etcd that is meant now: any if no leader is known.
    fn store(&self, victim: Victim) -> Option<usize> {
        let leader = self.lab.leader();
        let alive = |number: &usize| self.lab.stores[*number].id().is_some();
        let mut stores = (0..self.lab.stores.len()).filter(alive);
        match victim {
            Victim::Leader => leader.filter(alive).or_else(|| stores.next()),
            _ => stores.find(|number| Some(*number) != leader),
        }
    }

    fn process(&self, victim: Victim) -> Option<Pid> {
        match victim {
            Victim::Leader | Victim::Follower => {
                let id = self.lab.stores[self.store(victim)?].id()?;
                Some(Pid::from_raw(id.try_into().unwrap()))
            }
            Victim::StoreProcess(member) => self.lab.members[member].store_process(),
            Victim::Keeper(member) => self.lab.members[member].keeper(),
        }
    }

    fn resume(&mut self, number: usize) {
        if let Some(process) = self.paused.remove(&number)
            && !self.paused.values().any(|other| *other == process)
        {
            resume(process);
        }
    }

    fn apply_troubles(&mut self) {
        let all: Vec<Trouble> = self.troubles.values().flatten().copied().collect();
        self.lab.network.apply(&all);
    }

    fn restart_stores_that_ended(&mut self) {
        for store in &mut self.lab.stores {
            if store.has_ended() {
                store.kill();
                store.start();
            }
        }
    }

    /// Ends everything that has begun.
    fn heal(&mut self) {
        self.troubles.clear();
        self.apply_troubles();
        let numbers: BTreeSet<usize> = self
            .paused
            .keys()
            .chain(self.killed_stores.keys())
            .chain(self.killed_members.keys())
            .copied()
            .collect();
        for number in numbers {
            self.resume(number);
            self.start_again(number);
        }
        self.lab.members.iter().for_each(|member| member.clock.set(ClockOffset::None));
        self.lab.fill_disk(false);
        self.restart_stores_that_ended();
    }

    /// Replaces the store by the saved copy, as etcd's documentation describes it, and accepts it on all members.
    fn restore(&mut self) {
        let copy = self.lab.folder().join("copy");
        let token = format!("restored-{}", self.begun["a copy of the store is restored"]);
        for store in &mut self.lab.stores {
            store.kill();
            store.restore(Path::new("etcdctl"), &copy, &token);
            store.start();
        }
        assert!(within(NOTICED_WITHIN, || self.lab.leader().is_some()), "the restored store has a leader");
        for member in 0..self.lab.members.len() {
            let noticed = || self.lab.run_admin(member, &["fleet", "status"]).contains("accept-store");
            assert!(within(NOTICED_WITHIN, noticed), "m{}: the store went back", member + 1);
        }
        for member in 0..self.lab.members.len() {
            println!("{}", self.lab.run_admin(member, &["fleet", "accept-store", "--yes"]));
            self.lab.run_admin(member, &["reload"]);
        }
    }
}

fn is_alive(process: Pid) -> bool {
    kill(process, None).is_ok()
}

/// Continues a process. It may have been killed in the meantime.
fn resume(process: Pid) {
    let _ = kill(process, Signal::SIGCONT);
}
