//! The namespaces of a fleet and the bridge between them. The bridge drops and delays what the test wants.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use crate::net::{Namespace, is_root, limited};

/// How many etcd and how many members there are.
pub(super) const COUNT: usize = 3;

/// A host at the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Host {
    /// An etcd, from 0.
    Store(usize),
    /// A server with a daemon, from 0.
    Member(usize),
    /// Where knocks come from.
    Client,
}

/// What the bridge does to all that one host sends to another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nothing arrives.
    Cut { from: Host, to: Host },
    /// Three of ten packets are lost.
    Loss { from: Host, to: Host },
    /// What this host receives is late and comes in bursts.
    Delay { to: Host },
}

/// Eight namespaces: the bridge, three etcd, three members and a client.
pub(super) struct FleetNetwork {
    bridge: Namespace,
    stores: [Namespace; COUNT],
    members: [Namespace; COUNT],
    pub(super) client: Namespace,
    /// How packets are delayed on this kernel.
    delay: &'static str,
    /// The ports of the bridge with a delay.
    delayed: Mutex<Vec<Host>>,
}

impl Host {
    /// All stores.
    pub(super) const STORES: [Self; COUNT] = [Self::Store(0), Self::Store(1), Self::Store(2)];
    /// All members.
    pub(super) const MEMBERS: [Self; COUNT] = [Self::Member(0), Self::Member(1), Self::Member(2)];

    /// Its address.
    pub(super) const fn address(self) -> IpAddr {
        // A host number, below 10.
        const fn octet(number: usize) -> u8 {
            number.to_le_bytes()[0]
        }
        IpAddr::V4(Ipv4Addr::new(
            10,
            78,
            0,
            match self {
                Self::Store(number) => 11 + octet(number),
                Self::Member(number) => 21 + octet(number),
                Self::Client => 2,
            },
        ))
    }

    /// Its name, which is also that of its port at the bridge.
    pub(super) fn name(self) -> String {
        match self {
            Self::Store(number) => format!("n{}", number + 1),
            Self::Member(number) => format!("m{}", number + 1),
            Self::Client => "client".to_owned(),
        }
    }
}

impl FleetNetwork {
    /// Returns `None` and prints a line if the user is not root and so cannot create namespaces.
    pub(super) fn new() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let bridge = Namespace::new();
        bridge.ip("link add lan type bridge");
        bridge.ip("link set lan up");
        bridge.nft("add table bridge nemesis");
        for set in ["cut", "lossy"] {
            bridge.nft(&format!("add set bridge nemesis {set} {{ type ipv4_addr . ipv4_addr ; }}"));
        }
        bridge.nft("add chain bridge nemesis forward { type filter hook forward priority 0 ; }");
        bridge.nft("add rule bridge nemesis forward ip saddr . ip daddr @cut drop");
        bridge.nft(
            "add rule bridge nemesis forward ip saddr . ip daddr @lossy numgen random mod 100 < 30 drop",
        );
        let attach = |host: Host| {
            let space = Namespace::new();
            let address = format!("{}/24", host.address());
            bridge.cable((&host.name(), &[]), &space, ("eth0", &[&address]));
            bridge.ip(&format!("link set {} master lan", host.name()));
            space
        };
        let (stores, members) = (Host::STORES.map(attach), Host::MEMBERS.map(attach));
        let client = attach(Host::Client);
        let delay = delay_of_this_kernel(&bridge);
        Some(Self { bridge, stores, members, client, delay, delayed: Mutex::default() })
    }

    /// The namespace of a host.
    pub(super) fn of(&self, host: Host) -> &Namespace {
        match host {
            Host::Store(number) => &self.stores[number],
            Host::Member(number) => &self.members[number],
            Host::Client => &self.client,
        }
    }

    /// Replaces all earlier troubles by these; none = the network works.
    pub(super) fn apply(&self, troubles: &[Trouble]) {
        let (mut cut, mut lossy, mut delayed) = (Vec::new(), Vec::new(), Vec::new());
        for trouble in troubles {
            match *trouble {
                Trouble::Cut { from, to } => cut.push((from, to)),
                Trouble::Loss { from, to } => lossy.push((from, to)),
                Trouble::Delay { to } => delayed.push(to),
            }
        }
        let mut commands = String::new();
        for (set, mut pairs) in [("cut", cut), ("lossy", lossy)] {
            pairs.sort_unstable();
            pairs.dedup();
            write!(commands, "flush set bridge nemesis {set}; ").unwrap();
            for (from, to) in pairs {
                let pair = format!("{} . {}", from.address(), to.address());
                write!(commands, "add element bridge nemesis {set} {{ {pair} }}; ").unwrap();
            }
        }
        self.bridge.nft(&commands);
        for host in std::mem::replace(&mut *self.delayed.lock().unwrap(), delayed.clone()) {
            // Already gone if this host was listed twice.
            let port = host.name();
            let _ = self.bridge.output(limited("tc").args(["qdisc", "del", "dev", &port, "root"]));
        }
        for host in delayed {
            self.bridge.run(&format!("tc qdisc replace dev {} root {}", host.name(), self.delay));
        }
    }
}

/// netem(8) where the kernel has it; else a queue that is emptied slowly, which also delays, and drops when it is full.
fn delay_of_this_kernel(bridge: &Namespace) -> &'static str {
    const NETEM: &str = "netem delay 60ms 40ms loss 3%";
    const QUEUE: &str = "tbf rate 400kbit burst 3000 latency 400ms";
    let args = ["qdisc", "replace", "dev", "n1", "root"];
    let has_netem = bridge.output(limited("tc").args(args).args(NETEM.split_whitespace())).status.success();
    if !has_netem {
        println!("this kernel has no netem; packets are delayed by a slow queue");
        return QUEUE;
    }
    bridge.run("tc qdisc del dev n1 root");
    NETEM
}

#[test]
fn the_bridge_cuts_one_direction_and_loses_and_delays_packets_until_it_is_healed() {
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    use Host::{Client, Member, Store};

    let Some(network) = FleetNetwork::new() else { return };
    // How many of these datagrams arrive, and when the last one does.
    let send = |network: &FleetNetwork, from: Host, to: Host, count: usize| {
        let receiver = network.of(to).enter(|| UdpSocket::bind((to.address(), 9))).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let sender = network.of(from).udp(from.address());
        let start = Instant::now();
        let mut received = (0, Duration::ZERO);
        for _ in 0..count {
            sender.send_to(&[0; 200], (to.address(), 9)).unwrap();
        }
        while receiver.recv(&mut [0; 300]).is_ok() {
            received = (received.0 + 1, start.elapsed());
        }
        received
    };
    let arrives = |network: &FleetNetwork, from, to| send(network, from, to, 1).0 == 1;
    assert!(arrives(&network, Member(0), Store(0)));
    network.apply(&[Trouble::Cut { from: Store(0), to: Member(0) }]);
    assert!(!arrives(&network, Store(0), Member(0)));
    for (from, to) in [(Member(0), Store(0)), (Store(0), Member(1)), (Store(1), Member(0))] {
        assert!(arrives(&network, from, to), "{from:?} to {to:?}");
    }
    network.apply(&[Trouble::Loss { from: Client, to: Member(0) }]);
    assert!(arrives(&network, Store(0), Member(0)), "healed");
    let (received, _) = send(&network, Client, Member(0), 200);
    assert!((100..180).contains(&received), "{received} of 200");
    network.apply(&[Trouble::Delay { to: Store(2) }, Trouble::Delay { to: Store(2) }]);
    let (received, last) = send(&network, Client, Store(2), 100);
    assert!(received > 10 && last > Duration::from_millis(60), "{received} of 100 in {last:?}");
    network.apply(&[]);
    let (received, last) = send(&network, Client, Store(2), 100);
    assert!(received == 100 && last < Duration::from_millis(50), "{received} of 100 in {last:?}");
}
