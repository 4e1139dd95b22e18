//! Names of addresses (`-l`). Their owners choose them, so that a child looks them up that is not root: getent(1), with
//! a deadline. What comes of it is kept for a while, also that there is no name.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::legacy::knockd::HostName;
use crate::os::poll::Polled;
use crate::os::process::command_queue::{CommandQueue, Exit, Job, Room};
use crate::os::process::privileges::Identity;
use spa_knock_core::auth::{Rate, RecentActs};
use spa_knock_core::knock::Steady;

/// What looks up an address, which is its last word.
const PROGRAM: [&str; 2] = ["getent", "hosts"];
/// How many run at a time.
const LOOKUPS_MAX: usize = 4;
/// When one is ended.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many addresses are known, and for how long.
const KNOWN_MAX: usize = 1_024;
const KEPT: Duration = Duration::from_secs(600);
/// How many are begun a second at most: those for whoever sends a packet, and those for who knows a sequence.
const FOR_ANYBODY: Rate = Rate::a_second(10);
const FOR_OPENERS: Rate = Rate::a_second(20);

/// Who it is that a name is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::legacy) enum Priority {
    /// Whoever has sent a packet, from an address that he may have made up: looked up if there is time for it.
    Anybody,
    /// Somebody who knows a whole sequence: looked up when its turn comes.
    Opener,
}

/// The names that are known, and those that are being looked up.
pub(in crate::legacy) struct ReverseDns {
    program: Vec<String>,
    lookups: CommandQueue<IpAddr>,
    /// Those that run and those that wait for it.
    asked: BTreeSet<IpAddr>,
    known: NameCache,
    for_anybody: RecentActs,
    for_openers: RecentActs,
    /// Whether it has been told that they cannot be looked up.
    told: bool,
}

impl ReverseDns {
    /// None yet; who looks them up becomes this user.
    pub(in crate::legacy) fn new(identity: Option<Identity>) -> Self {
        Self::with(&PROGRAM, identity)
    }

    fn with(program: &[&str], identity: Option<Identity>) -> Self {
        Self {
            program: program.iter().map(|&word| word.to_owned()).collect(),
            lookups: CommandQueue::with_room(Room::shared(LOOKUPS_MAX)).under(identity),
            asked: BTreeSet::new(),
            known: NameCache::default(),
            for_anybody: RecentActs::default(),
            for_openers: RecentActs::default(),
            told: false,
        }
    }

    /// Has a name looked up that is not known, unless there are too many already.
    pub(in crate::legacy) fn ask(&mut self, address: IpAddr, asker: Priority, now: Steady) {
        self.known.forget(now);
        if self.asked.contains(&address) || self.known.has(address) || !self.admits(asker, now) {
            return;
        }
        let mut argv = self.program.clone();
        argv.push(address.to_string());
        match self.lookups.start(Job { argv, timeout: TIMEOUT, owner: String::new(), label: address }, now) {
            Ok(()) => {
                self.asked.insert(address);
            }
            Err(error) if !self.told => {
                self.told = true;
                log::warn!("--lookup: {error}: addresses are logged without names while this is so");
            }
            Err(_) => {}
        }
    }

    /// Whether its name may still come.
    pub(in crate::legacy) fn awaits(&self, address: IpAddr) -> bool {
        self.asked.contains(&address)
    }

    /// The name of an address, if it has one and it is known.
    pub(in crate::legacy) fn of(&self, address: IpAddr) -> Option<&HostName> {
        self.known.of(address)
    }

    /// Takes what look-ups have come to, ends those that are too late, and starts those whose turn it is.
    pub(in crate::legacy) fn run_due(&mut self, now: Steady) {
        for done in self.lookups.run_due(now) {
            self.asked.remove(&done.label);
            let name = (done.ended == Exit::Success).then(|| name_in(&done.said, done.label)).flatten();
            self.known.learn(done.label, name, now);
        }
    }

    fn admits(&mut self, asker: Priority, now: Steady) -> bool {
        match asker {
            Priority::Anybody => {
                let (running, waiting) = self.lookups.counts();
                running < LOOKUPS_MAX && waiting == 0 && self.for_anybody.admit(FOR_ANYBODY, now)
            }
            Priority::Opener => self.for_openers.admit(FOR_OPENERS, now),
        }
    }
}

impl Polled for ReverseDns {
    /// Readable when a look-up says something.
    fn fds<'a>(&'a self, out: &mut Vec<BorrowedFd<'a>>) {
        self.lookups.fds(out);
    }

    fn deadline(&self) -> Option<Steady> {
        self.lookups.deadline()
    }
}

impl Drop for ReverseDns {
    fn drop(&mut self) {
        self.lookups.kill(|_| true);
    }
}

/// What getent has said: a line with the address, its name and maybe others; line ends stand as `\n`.
fn name_in(said: &str, address: IpAddr) -> Option<HostName> {
    let mut words = said.split("\\n").next()?.split_ascii_whitespace();
    let theirs: IpAddr = words.next()?.parse().ok()?;
    words.next()?.parse().ok().filter(|_| theirs == address)
}

/// What was found out lately.
#[derive(Debug, Default)]
struct NameCache {
    names: HashMap<IpAddr, Option<HostName>>,
    /// The same addresses, and when each is forgotten; the next one first.
    ends: VecDeque<(Steady, IpAddr)>,
}

impl NameCache {
    /// Takes in what was not known.
    fn learn(&mut self, address: IpAddr, name: Option<HostName>, now: Steady) {
        if self.names.insert(address, name).is_none() {
            self.ends.push_back((now.plus(KEPT), address));
        }
        if self.ends.len() > KNOWN_MAX
            && let Some((_, oldest)) = self.ends.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    fn forget(&mut self, now: Steady) {
        while let Some((end, address)) = self.ends.front()
            && *end <= now
        {
            self.names.remove(address);
            self.ends.pop_front();
        }
    }

    /// Whether it is known what its name is, or that it has none.
    fn has(&self, address: IpAddr) -> bool {
        self.names.contains_key(&address)
    }

    fn of(&self, address: IpAddr) -> Option<&HostName> {
        self.names.get(&address)?.as_ref()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv4Addr;
    use std::thread::sleep;

    use proptest::prelude::*;

    use super::*;
    use crate::os::clock::steady;

    impl ReverseDns {
        /// Looked up by a script, in which `$0` is the address.
        pub(in crate::legacy) fn by(script: &str) -> Self {
            Self::with(&["/bin/sh", "-c", script], None)
        }

        /// Waits until no look-up runs any more.
        pub(in crate::legacy) fn settle(&mut self) {
            while !self.lookups.is_idle() {
                self.run_due(steady());
                sleep(Duration::from_millis(2));
            }
        }
    }

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn at(time: Duration) -> Steady {
        Steady::from_duration(time)
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0A00_0000 | number).into()
    }

    fn name(text: &str) -> Option<HostName> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn only_a_host_name_behind_the_very_address_is_a_name() {
        for (said, found) in [
            ("10.0.0.1        host.example", name("host.example")),
            ("10.0.0.1        host.example alias.example", name("host.example")),
            ("10.0.0.1 host.example\\n10.0.0.2 other.example", name("host.example")),
            ("10.0.0.2 host.example", None),
            ("10.0.0.1", None),
            ("", None),
            ("\\n10.0.0.1 host.example", None),
            ("10.0.0.1 a\\u{1b}[2J", None),
            ("10.0.0.1 a: OPEN SESAME", None),
            ("10.0.0.1 10.0.0.9", None),
            ("getent: cannot do this", None),
        ] {
            assert_eq!(name_in(said, address(1)), found, "{said:?}");
        }
        let six: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(name_in("fd00::1         six.example", six), name("six.example"));
    }

    #[test]
    fn a_name_is_looked_up_once_and_so_is_that_there_is_none() {
        let scratch = tempfile::tempdir().unwrap();
        let asked = scratch.path().join("asked");
        let mut names = ReverseDns::by(&format!(
            "echo >> {}; [ $0 = 10.0.0.1 ] && echo $0 host.example",
            asked.display()
        ));
        for _ in 0..3 {
            for number in [1, 2] {
                names.ask(address(number), Priority::Anybody, steady());
            }
            names.settle();
        }
        assert_eq!(names.of(address(1)), name("host.example").as_ref());
        assert_eq!((names.of(address(2)), names.awaits(address(2))), (None, false));
        assert_eq!(crate::os::files::read_bytes(&asked).unwrap(), b"\n\n");
    }

    #[test]
    fn a_lookup_that_takes_too_long_is_ended_and_leaves_no_name() {
        let mut names = ReverseDns::by("echo $0 host.example; exec sleep 60");
        let start = steady();
        names.ask(address(1), Priority::Anybody, at(Duration::ZERO));
        assert!(names.awaits(address(1)));
        names.settle();
        assert_eq!((names.of(address(1)), names.awaits(address(1))), (None, false));
        assert!(steady().since(start) < Duration::from_secs(30));
    }

    #[test]
    fn made_up_addresses_start_few_lookups_and_keep_nobody_who_opens_from_his() {
        let mut names = ReverseDns::by("exec sleep 60");
        let now = steady();
        (0..1_000).for_each(|number| names.ask(address(number), Priority::Anybody, now));
        assert_eq!(names.lookups.counts(), (LOOKUPS_MAX, 0));
        names.ask(address(2_000), Priority::Opener, now);
        assert!(names.awaits(address(2_000)), "it waits for its turn");
        names.ask(address(2_001), Priority::Anybody, now);
        assert!(!names.awaits(address(2_001)));
        // Who knows the sequence can make up addresses, too.
        (3_000..4_000).for_each(|number| names.ask(address(number), Priority::Opener, now));
        assert_eq!(names.lookups.counts(), (LOOKUPS_MAX, 20));
        for _ in 0..1_000 {
            names.ask(address(5_000), Priority::Opener, now.plus(Duration::from_secs(1)));
        }
        assert_eq!(names.lookups.counts(), (LOOKUPS_MAX, 21), "once for an address");
    }

    #[test]
    fn quick_answers_do_not_make_more_lookups_a_second() {
        let mut names = ReverseDns::by("exit 2");
        let now = steady();
        for number in 0..50 {
            names.ask(address(number), Priority::Anybody, now);
            names.settle();
        }
        assert_eq!(names.known.names.len(), 10);
    }

    #[test]
    fn without_the_program_there_are_no_names_and_nobody_waits() {
        let mut names = ReverseDns::with(&["/nonexistent/program"], None);
        names.ask(address(1), Priority::Opener, steady());
        assert!(names.told && !names.awaits(address(1)));
    }

    proptest! {
        #[test]
        fn what_is_known_is_what_a_naive_list_knows(steps in prop::collection::vec((0_u64..30, 0_u32..2_000), 1..1_500)) {
            let (mut known, mut list, mut now) = (NameCache::default(), Vec::new(), Duration::ZERO);
            for (pause, number) in steps {
                now += Duration::from_secs(pause) / 20;
                known.forget(at(now));
                // The oracle looks at every answer that there ever was.
                list.retain(|&(at, _)| now - at < KEPT);
                let there = list.iter().any(|&(_, learnt)| learnt == number);
                prop_assert_eq!(known.has(address(number)), there);
                if !there {
                    let found = number.is_multiple_of(2).then(|| name(&format!("h{number}"))).flatten();
                    known.learn(address(number), found, at(now));
                    list.push((now, number));
                    let excess = list.len().saturating_sub(KNOWN_MAX);
                    list.drain(..excess);
                }
                prop_assert_eq!((known.names.len(), known.ends.len()), (list.len(), list.len()));
                let expected = list.iter().any(|&(_, learnt)| learnt == number) && number.is_multiple_of(2);
                prop_assert_eq!(known.of(address(number)).is_some(), expected);
            }
        }
    }
}
