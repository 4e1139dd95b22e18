//! What the comparison needs to know about a tool: its configuration, its daemons, its client, and its packets.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::frames::{Dice, Packet};
use crate::lab::Lab;

/// A tool in one configuration.
pub(crate) trait Peer: Sync {
    /// A name for results.
    fn key(&self) -> &'static str;

    /// The name of the tool; several modes of one tool have the same.
    fn tool(&self) -> &'static str;

    /// A human-readable name.
    fn title(&self) -> &'static str;

    /// Writes the configuration into `dir` and loads the firewall that the tool expects. The port is closed then.
    fn configure(&self, lab: &Lab, dir: &Path, setup: Setup);

    /// Shell commands that start the daemons in the foreground, in this order.
    fn daemons(&self, dir: &Path) -> Vec<String>;

    /// Whether the daemons are ready, a few milliseconds after the last one has opened its socket.
    fn is_ready(&self, lab: &Lab, dir: &Path) -> bool;

    /// The tool's client with its defaults, as the last one of `setup.clients`.
    fn knock(&self, dir: &Path, setup: Setup, from: Ipv4Addr) -> Command;

    /// The packets of a knock, in the language of pcap-filter(7).
    fn filter(&self) -> &'static str;

    /// The kinds of forged packets: a key and a description.
    fn forgeries(&self) -> &'static [(&'static str, &'static str)];

    /// A forged packet. `recorded` are the packets of a real knock that has not reached the server.
    fn forge(&self, kind: &str, recorded: &[Packet], dice: &mut Dice) -> Packet;

    /// The configuration, as text for the documentation: file names and contents.
    fn shown(&self) -> Vec<(&'static str, String)>;
}

/// What varies in a configuration.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    /// Number of clients, stanzas, users or doors of knockd.
    pub(crate) clients: usize,
    /// How long a port stays open.
    pub(crate) seconds: u32,
}

impl Setup {
    pub(crate) const USUAL: Self = Self { clients: 1, seconds: 60 };
}

/// Datagrams of this length and format, except for `changed` bytes from the end, which are `alphabet` or random.
pub(crate) fn with_other_end(
    recorded: &[Packet],
    changed: usize,
    alphabet: Option<&[u8]>,
    dice: &mut Dice,
) -> Packet {
    let Some(Packet::Udp { to, payload, .. }) = recorded.first() else { panic!("no datagram was recorded") };
    let mut payload = payload.clone();
    let start = payload.len() - changed;
    dice.fill(&mut payload[start..]);
    if let Some(alphabet) = alphabet {
        for byte in &mut payload[start..] {
            *byte = alphabet[usize::from(*byte) % alphabet.len()];
        }
    }
    Packet::Udp { from: dice.port(), to: *to, payload }
}

/// Whether a packet socket or a socket on this UDP or TCP port exists in the server's namespace.
pub(crate) fn has_packet_socket(lab: &Lab) -> bool {
    lab.server.enter(|| std::fs::read_to_string("/proc/thread-self/net/packet").unwrap()).lines().count() > 1
}

/// A firewall of iptables that drops by default, as the documentation of fwknop and knockd has it.
pub(crate) const IPTABLES: [&str; 3] = [
    "iptables -P INPUT DROP",
    "iptables -A INPUT -i lo -j ACCEPT",
    "iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
];
