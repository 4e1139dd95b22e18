//! knockd of Debian: three SYNs in the right order, commands of iptables.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::frames::{Dice, Packet};
use crate::lab::{Lab, SERVER};
use crate::peer::{IPTABLES, Peer, Setup, has_packet_socket};

pub(crate) struct Knockd;

/// The first port of the first door of knockd.conf; each has three of its own.
const FIRST: usize = 10_000;

fn config(setup: Setup) -> String {
    let mut text = "[options]\nlogfile = /dev/null\n".to_owned();
    for n in 1..=setup.clients {
        let [a, b, c] = ports(n);
        write!(
            text,
            "\n[d{n}]\nsequence = {a},{b},{c}\nseq_timeout = 5\ntcpflags = syn\n\
             start_command = iptables -I INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n\
             cmd_timeout = {}\n\
             stop_command = iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n",
            setup.seconds
        )
        .unwrap();
    }
    text
}

fn ports(n: usize) -> [usize; 3] {
    [0, 1, 2].map(|at| FIRST + 3 * (n - 1) + at)
}

impl Peer for Knockd {
    fn key(&self) -> &'static str {
        "knockd"
    }

    fn tool(&self) -> &'static str {
        "knockd"
    }

    fn title(&self) -> &'static str {
        "knockd"
    }

    fn configure(&self, lab: &Lab, dir: &Path, setup: Setup) {
        IPTABLES.iter().for_each(|line| drop(lab.server.run(line)));
        fs::write(dir.join("knockd.conf"), config(setup)).unwrap();
    }

    fn daemons(&self, dir: &Path) -> Vec<String> {
        vec![format!("exec knockd -i lan0 -c {}/knockd.conf", dir.display())]
    }

    fn is_ready(&self, lab: &Lab, _: &Path) -> bool {
        has_packet_socket(lab)
    }

    fn knock(&self, _: &Path, setup: Setup, _: Ipv4Addr) -> Command {
        let mut command = Command::new("knock");
        command.arg(SERVER.to_string()).args(ports(setup.clients).map(|port| port.to_string()));
        command
    }

    fn filter(&self) -> &'static str {
        "tcp dst portrange 10000-13999 and tcp[13] & 0x12 = 2"
    }

    fn forgeries(&self) -> &'static [(&'static str, &'static str)] {
        &[("any-order", "a SYN to a random port of the sequence, each from another address")]
    }

    fn forge(&self, _: &str, recorded: &[Packet], dice: &mut Dice) -> Packet {
        let Packet::Syn { to, .. } = recorded[(dice.roll() >> 33) as usize % recorded.len()] else {
            panic!("no SYN was recorded")
        };
        Packet::Syn { from: dice.port(), to }
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        vec![("knockd.conf", config(Setup::USUAL)), ("the firewall before", IPTABLES.join("\n"))]
    }
}
