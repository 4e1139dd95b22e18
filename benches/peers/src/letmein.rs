//! letmein of crates.io, over TCP as by default, or over UDP: two daemons and nftables.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::frames::{Dice, Packet};
use crate::lab::{Lab, SERVER};
use crate::peer::{Peer, Setup, with_other_end};
use crate::programs;

/// letmein with one of its transports.
pub(crate) struct Letmein {
    key: &'static str,
    title: &'static str,
    port: &'static str,
    filter: &'static str,
    forgeries: &'static [(&'static str, &'static str)],
}

/// Both transports.
pub(crate) const TRANSPORTS: [Letmein; 2] = [
    Letmein {
        key: "letmein-tcp",
        title: "letmein",
        port: "5800",
        filter: "tcp dst port 5800 and tcp[13] & 0x12 = 2",
        forgeries: &[("syn", "a SYN to the control port, each from another address")],
    },
    Letmein {
        key: "letmein-udp",
        title: "letmein, udp",
        port: "5800 / udp",
        filter: "udp dst port 5800",
        forgeries: &[("wrong-mac", "a recorded first message with another MAC")],
    },
];

/// The user of letmeind exists only in a copy of the user database, which only the daemons see.
const USER: u32 = 64_000;
/// Bytes of salt and MAC at the end of a message.
const SALT_AND_MAC: usize = 40;

const FIREWALL: &str = "table inet filter {
    chain LETMEIN-INPUT { }
    chain INPUT {
        type filter hook input priority filter; policy drop;
        iifname lo accept
        ct state related,established accept
        jump LETMEIN-INPUT
    }
}
";

fn keys(clients: usize) -> String {
    let mut text = "[KEYS]\n".to_owned();
    for n in 1..=clients {
        writeln!(text, "{n:08X} = {:064X}", 0x5EED_0000_0000 + n).unwrap();
    }
    text
}

impl Letmein {
    fn server(&self, setup: Setup) -> String {
        format!(
            "[GENERAL]\nport = {}\ncontrol-error-policy = basic-auth\n\n\
             [NFTABLES]\nexe = /usr/sbin/nft\nfamily = inet\ntable = filter\nchain-input = LETMEIN-INPUT\n\
             timeout = {}\nmax-nr-rules = 10000\n\n{}\n[RESOURCES]\n00000022 = port: 22\n",
            self.port,
            setup.seconds,
            keys(setup.clients)
        )
    }

    fn client(&self, setup: Setup) -> String {
        format!(
            "[GENERAL]\nport = {}\n\n[CLIENT]\ndefault-user = {:08X}\n\n{}\n[RESOURCES]\n00000022 = port: 22\n",
            self.port,
            setup.clients,
            keys(setup.clients)
        )
    }
}

impl Peer for Letmein {
    fn key(&self) -> &'static str {
        self.key
    }

    fn tool(&self) -> &'static str {
        "letmein"
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn configure(&self, lab: &Lab, dir: &Path, setup: Setup) {
        fs::write(dir.join("firewall.nft"), FIREWALL).unwrap();
        lab.server.nft(&format!("-f {}/firewall.nft", dir.display()));
        for (name, mode, text) in
            [("letmeind.conf", 0o640, self.server(setup)), ("letmein.conf", 0o600, self.client(setup))]
        {
            fs::write(dir.join(name), text).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        chown(dir.join("letmeind.conf"), Some(0), Some(USER)).unwrap();
        fs::create_dir_all(dir.join("run/letmeind")).unwrap();
        chown(dir.join("run/letmeind"), Some(USER), Some(USER)).unwrap();
        for (name, line) in [
            ("passwd", format!("letmeind:x:{USER}:{USER}::/:/usr/sbin/nologin\n")),
            ("group", format!("letmeind:x:{USER}:\n")),
        ] {
            let usual = fs::read_to_string(format!("/etc/{name}")).unwrap();
            fs::write(dir.join(name), usual + &line).unwrap();
        }
    }

    fn daemons(&self, dir: &Path) -> Vec<String> {
        let dir = dir.display();
        let options = format!("--config {dir}/letmeind.conf --rundir {dir}/run --no-systemd 2>/dev/null");
        let prepare = format!("mount --bind {dir}/passwd /etc/passwd; mount --bind {dir}/group /etc/group");
        vec![
            format!("{prepare}; exec {} {options}", programs::letmein("letmeinfwd")),
            format!(
                "exec setpriv --reuid {USER} --regid {USER} --clear-groups {} {options}",
                programs::letmein("letmeind")
            ),
        ]
    }

    fn is_ready(&self, _: &Lab, dir: &Path) -> bool {
        ["letmeind", "letmeinfwd"].iter().all(|name| {
            fs::read_to_string(dir.join(format!("run/{name}/{name}.pid"))).is_ok_and(|id| {
                let comm = fs::read_to_string(format!("/proc/{}/comm", id.trim()));
                comm.is_ok_and(|comm| comm.trim() == *name)
            })
        })
    }

    fn knock(&self, dir: &Path, _: Setup, _: Ipv4Addr) -> Command {
        let mut command = Command::new(programs::letmein("letmein"));
        command.arg("--config").arg(dir.join("letmein.conf")).args(["knock", &SERVER.to_string(), "22"]);
        command
    }

    fn filter(&self) -> &'static str {
        self.filter
    }

    fn forgeries(&self) -> &'static [(&'static str, &'static str)] {
        self.forgeries
    }

    fn forge(&self, _: &str, recorded: &[Packet], dice: &mut Dice) -> Packet {
        match recorded.first() {
            Some(Packet::Syn { to, .. }) => Packet::Syn { from: dice.port(), to: *to },
            _ => with_other_end(recorded, SALT_AND_MAC, None, dice),
        }
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        vec![
            ("letmeind.conf", self.server(Setup::USUAL)),
            ("the firewall before", FIREWALL.to_owned()),
            ("letmein.conf", self.client(Setup::USUAL)),
        ]
    }
}
