//! fwknop of Debian: fwknopd with libpcap and iptables, its client with a stanza in an rc file.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::frames::{Dice, Packet};
use crate::lab::{Lab, SERVER};
use crate::peer::{IPTABLES, Peer, Setup, has_packet_socket, with_other_end};

pub(crate) struct Fwknop;

/// Characters of the HMAC-SHA256 at the end of a packet.
const HMAC: usize = 43;
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The keys of stanza `n`. fwknop derives its own from them.
fn keys(n: usize) -> String {
    format!("KEY a-key-of-stanza-{n}\nHMAC_KEY another-key-for-the-hmac-of-{n}\n")
}

fn access(setup: Setup) -> String {
    let mut text = String::new();
    for n in 1..=setup.clients {
        write!(
            text,
            "SOURCE ANY\n{}OPEN_PORTS tcp/22\nREQUIRE_SOURCE_ADDRESS Y\nFW_ACCESS_TIMEOUT {}\n\n",
            keys(n),
            setup.seconds
        )
        .unwrap();
    }
    text
}

fn settings(dir: &str) -> String {
    format!("PCAP_INTF lan0;\nFWKNOP_RUN_DIR {dir}/run;\n")
}

fn client(n: usize) -> String {
    format!("[server]\nSPA_SERVER {SERVER}\nACCESS tcp/22\nUSE_HMAC Y\n{}", keys(n))
}

impl Peer for Fwknop {
    fn key(&self) -> &'static str {
        "fwknop"
    }

    fn tool(&self) -> &'static str {
        "fwknop"
    }

    fn title(&self) -> &'static str {
        "fwknop"
    }

    fn configure(&self, lab: &Lab, dir: &Path, setup: Setup) {
        IPTABLES.iter().for_each(|line| drop(lab.server.run(line)));
        let settings = settings(&dir.display().to_string());
        for (name, text) in
            [("access.conf", access(setup)), ("fwknopd.conf", settings), ("fwknoprc", client(setup.clients))]
        {
            fs::write(dir.join(name), text).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn daemons(&self, dir: &Path) -> Vec<String> {
        let dir = dir.display();
        vec![format!("exec fwknopd -f -c {dir}/fwknopd.conf -a {dir}/access.conf")]
    }

    fn is_ready(&self, lab: &Lab, _: &Path) -> bool {
        has_packet_socket(lab)
    }

    fn knock(&self, dir: &Path, _: Setup, from: Ipv4Addr) -> Command {
        let mut command = Command::new("fwknop");
        command.arg("--rc-file").arg(dir.join("fwknoprc")).args(["-n", "server", "-a", &from.to_string()]);
        command
    }

    fn filter(&self) -> &'static str {
        "udp dst port 62201"
    }

    fn forgeries(&self) -> &'static [(&'static str, &'static str)] {
        &[("wrong-mac", "a recorded packet with another HMAC")]
    }

    fn forge(&self, _: &str, recorded: &[Packet], dice: &mut Dice) -> Packet {
        with_other_end(recorded, HMAC, Some(BASE64), dice)
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        vec![
            ("fwknopd.conf", settings("DIR")),
            ("access.conf", access(Setup::USUAL)),
            ("the firewall before", IPTABLES.join("\n")),
            ("~/.fwknoprc", client(1)),
        ]
    }
}
