//! Host names of addresses (`-l`). The owners of the addresses choose them, so an unprivileged child process looks them
//! up: getent(1), with a deadline. Results are cached for 10 minutes, including that there is no name.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::legacy::knockd::HostName;
use crate::os::poll::Polled;
use crate::os::process::command_queue::{CommandQueue, Exit, Job, QueueLimits};
use crate::os::process::privileges::Identity;
use spa_knock_core::auth::{Rate, RecentActs};
use spa_knock_core::knock::Steady;

/// The lookup command. The address is appended.
const PROGRAM: [&str; 2] = ["getent", "hosts"];
/// How many lookups run at a time.
const LOOKUPS_MAX: usize = 4;
/// When a lookup is killed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Size of the cache, and how long an entry is kept.
const KNOWN_MAX: usize = 1_024;
const KEPT: Duration = Duration::from_secs(600);
/// Most lookups started per second for anyone who sends a packet.
const FOR_ANYONE: Rate = Rate::a_second(10);
/// Most lookups started per second for sources that have completed a sequence.
const FOR_OPENERS: Rate = Rate::a_second(20);

/// How important a lookup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::legacy) enum Priority {
    /// The source has only sent a packet, and may be spoofed: looked up only if a lookup can start immediately.
    Anyone,
    /// The source has completed a sequence: waits in the queue.
    Opener,
}

/// Cached names and running lookups.
pub(in crate::legacy) struct ReverseDns {
    program: Vec<String>,
    lookups: CommandQueue<IpAddr>,
    /// Addresses whose lookups run or wait.
    requested: BTreeSet<IpAddr>,
    known: NameCache,
    for_anyone: RecentActs,
    for_openers: RecentActs,
    /// Whether it has been logged that lookups cannot be started.
    has_warned: bool,
}

impl ReverseDns {
    /// Starts with an empty cache. Lookups run as `identity`.
    pub(in crate::legacy) fn new(identity: Option<Identity>) -> Self {
        Self::with(&PROGRAM, identity)
    }

    fn with(program: &[&str], identity: Option<Identity>) -> Self {
        Self {
            program: program.iter().map(|&word| word.to_owned()).collect(),
            lookups: CommandQueue::with_limits(QueueLimits::shared(LOOKUPS_MAX)).with_identity(identity),
            requested: BTreeSet::new(),
            known: NameCache::default(),
            for_anyone: RecentActs::default(),
            for_openers: RecentActs::default(),
            has_warned: false,
        }
    }

    /// Starts a lookup if the name is not cached and the limits permit it.
    pub(in crate::legacy) fn request(&mut self, address: IpAddr, priority: Priority, now: Steady) {
        self.known.expire(now);
        if self.requested.contains(&address) || self.known.has(address) || !self.admits(priority, now) {
            return;
        }
        let mut argv = self.program.clone();
        argv.push(address.to_string());
        match self.lookups.start(Job { argv, timeout: TIMEOUT, owner: String::new(), label: address }, now) {
            Ok(()) => {
                self.requested.insert(address);
            }
            Err(error) if !self.has_warned => {
                self.has_warned = true;
                log::warn!("--lookup: {error}; addresses are logged without names until this works");
            }
            Err(_) => {}
        }
    }

    /// Whether a lookup of this address runs or waits.
    pub(in crate::legacy) fn awaits(&self, address: IpAddr) -> bool {
        self.requested.contains(&address)
    }

    /// The cached name of an address, if any.
    pub(in crate::legacy) fn of(&self, address: IpAddr) -> Option<&HostName> {
        self.known.of(address)
    }

    /// Stores the results of lookups, kills those that take too long, and starts waiting ones.
    pub(in crate::legacy) fn run_due(&mut self, now: Steady) {
        for done in self.lookups.run_due(now) {
            self.requested.remove(&done.label);
            let name = (done.ended == Exit::Success).then(|| name_in(&done.output, done.label)).flatten();
            self.known.store(done.label, name, now);
        }
    }

    fn admits(&mut self, priority: Priority, now: Steady) -> bool {
        match priority {
            Priority::Anyone => {
                let (running, waiting) = self.lookups.counts();
                running < LOOKUPS_MAX && waiting == 0 && self.for_anyone.admit(FOR_ANYONE, now)
            }
            Priority::Opener => self.for_openers.admit(FOR_OPENERS, now),
        }
    }
}

impl Polled for ReverseDns {
    /// Readable when a lookup prints something or exits.
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

/// Parses the output of getent: a line with the address, its name and possibly aliases. Line ends are escaped as `\n`.
fn name_in(output: &str, address: IpAddr) -> Option<HostName> {
    let mut words = output.split("\\n").next()?.split_ascii_whitespace();
    let printed: IpAddr = words.next()?.parse().ok()?;
    words.next()?.parse().ok().filter(|_| printed == address)
}

/// Results of recent lookups.
#[derive(Debug, Default)]
struct NameCache {
    names: HashMap<IpAddr, Option<HostName>>,
    /// When each address is removed, the earliest first.
    ends: VecDeque<(Steady, IpAddr)>,
}

impl NameCache {
    /// Stores the result for an address.
    fn store(&mut self, address: IpAddr, name: Option<HostName>, now: Steady) {
        if self.names.insert(address, name).is_none() {
            self.ends.push_back((now.plus(KEPT), address));
        }
        if self.ends.len() > KNOWN_MAX
            && let Some((_, oldest)) = self.ends.pop_front()
        {
            self.names.remove(&oldest);
        }
    }

    fn expire(&mut self, now: Steady) {
        while let Some((end, address)) = self.ends.front()
            && *end <= now
        {
            self.names.remove(address);
            self.ends.pop_front();
        }
    }

    /// Whether the address has an entry, which may be that it has no name.
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
        /// Looks up names with a shell script, in which `$0` is the address.
        pub(in crate::legacy) fn by(script: &str) -> Self {
            Self::with(&["/bin/sh", "-c", script], None)
        }

        /// Waits until no lookup runs.
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
    fn only_a_host_name_after_the_same_address_is_accepted() {
        for (output, found) in [
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
            assert_eq!(name_in(output, address(1)), found, "{output:?}");
        }
        let six: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(name_in("fd00::1         six.example", six), name("six.example"));
    }

    #[test]
    fn each_address_is_looked_up_once_even_if_it_has_no_name() {
        let scratch = tempfile::tempdir().unwrap();
        let count_file = scratch.path().join("lookups");
        let mut names = ReverseDns::by(&format!(
            "echo >> {}; [ $0 = 10.0.0.1 ] && echo $0 host.example",
            count_file.display()
        ));
        for _ in 0..3 {
            for number in [1, 2] {
                names.request(address(number), Priority::Anyone, steady());
            }
            names.settle();
        }
        assert_eq!(names.of(address(1)), name("host.example").as_ref());
        assert_eq!((names.of(address(2)), names.awaits(address(2))), (None, false));
        assert_eq!(crate::os::files::read_bytes(&count_file).unwrap(), b"\n\n");
    }

    #[test]
    fn a_lookup_that_takes_too_long_is_killed_and_finds_no_name() {
        let mut names = ReverseDns::by("echo $0 host.example; exec sleep 60");
        let start = steady();
        names.request(address(1), Priority::Anyone, at(Duration::ZERO));
        assert!(names.awaits(address(1)));
        names.settle();
        assert_eq!((names.of(address(1)), names.awaits(address(1))), (None, false));
        assert!(steady().since(start) < Duration::from_secs(30));
    }

    #[test]
    fn spoofed_addresses_start_few_lookups_and_do_not_block_those_of_openers() {
        let mut names = ReverseDns::by("exec sleep 60");
        let now = steady();
        (0..1_000).for_each(|number| names.request(address(number), Priority::Anyone, now));
        assert_eq!(names.lookups.counts(), (LOOKUPS_MAX, 0));
        names.request(address(2_000), Priority::Opener, now);
        assert!(names.awaits(address(2_000)), "it waits in the queue");
        names.request(address(2_001), Priority::Anyone, now);
        assert!(!names.awaits(address(2_001)));
        // Anyone who knows the sequence can spoof addresses, too.
        (3_000..4_000).for_each(|number| names.request(address(number), Priority::Opener, now));
        assert_eq!(names.lookups.counts(), (LOOKUPS_MAX, 20));
        for _ in 0..1_000 {
            names.request(address(5_000), Priority::Opener, now.plus(Duration::from_secs(1)));
        }
        assert_eq!(names.lookups.counts(), (LOOKUPS_MAX, 21), "one lookup for one address");
    }

    #[test]
    fn quick_lookups_do_not_raise_the_limit_per_second() {
        let mut names = ReverseDns::by("exit 2");
        let now = steady();
        for number in 0..50 {
            names.request(address(number), Priority::Anyone, now);
            names.settle();
        }
        assert_eq!(names.known.names.len(), 10);
    }

    #[test]
    fn without_the_program_there_are_no_names_and_no_line_waits() {
        let mut names = ReverseDns::with(&["/nonexistent/program"], None);
        names.request(address(1), Priority::Opener, steady());
        assert!(names.has_warned && !names.awaits(address(1)));
    }

    proptest! {
        #[test]
        fn the_cache_agrees_with_a_naive_list(steps in prop::collection::vec((0_u64..30, 0_u32..2_000), 1..1_500)) {
            let (mut known, mut list, mut now) = (NameCache::default(), Vec::new(), Duration::ZERO);
            for (pause, number) in steps {
                now += Duration::from_secs(pause) / 20;
                known.expire(at(now));
                // The oracle searches a list of all results.
                list.retain(|&(at, _)| now - at < KEPT);
                let there = list.iter().any(|&(_, stored)| stored == number);
                prop_assert_eq!(known.has(address(number)), there);
                if !there {
                    let found = number.is_multiple_of(2).then(|| name(&format!("h{number}"))).flatten();
                    known.store(address(number), found, at(now));
                    list.push((now, number));
                    let excess = list.len().saturating_sub(KNOWN_MAX);
                    list.drain(..excess);
                }
                prop_assert_eq!((known.names.len(), known.ends.len()), (list.len(), list.len()));
                let expected = list.iter().any(|&(_, stored)| stored == number) && number.is_multiple_of(2);
                prop_assert_eq!(known.of(address(number)).is_some(), expected);
            }
        }
    }
}
