//! spa-knock, in each of its ways to receive datagrams.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use spa_knock_core::crypto::{KeyFile, KeyOwner, PairSecret, Secret};

use crate::frames::{Dice, Packet};
use crate::lab::{Lab, SERVER};
use crate::peer::{Peer, Setup, with_other_end};
use crate::programs;

/// A way to receive datagrams.
pub(crate) struct SpaKnock {
    key: &'static str,
    title: &'static str,
    /// Lines of the section `[server]`.
    server: &'static str,
    /// Lines of the section `[firewall]`.
    firewall: &'static str,
    /// A rule of the host's own firewall for the knock port, if the mode needs one.
    accept: &'static str,
}

/// The host's own firewall drops by default, as those of the other tools do. It leaves the port to the gate.
const FIREWALL: &str = "table inet filter {
    chain INPUT {
        type filter hook input priority filter; policy drop;
        iifname lo accept
        ct state related,established accept
        tcp dport 22 accept
ACCEPT    }
}
";

/// Each mode: its name in results, its title, and what it adds to the config and to the host's own firewall.
pub(crate) const MODES: &[SpaKnock] = &[
    SpaKnock {
        key: "spa-knock-pcap",
        title: "spa-knock",
        server: "interfaces = [\"lan0\"]\n",
        firewall: "",
        accept: "",
    },
    SpaKnock {
        key: "spa-knock-any",
        title: "spa-knock, any interface",
        server: "",
        firewall: "",
        accept: "",
    },
    SpaKnock {
        key: "spa-knock-kernel-filter",
        title: "spa-knock, udp with hint filter",
        server: "capture = \"udp\"\ninterfaces = [\"lan0\"]\n",
        firewall: "",
        accept: "        udp dport 62201 accept\n",
    },
    SpaKnock {
        key: "spa-knock-udp",
        title: "spa-knock, udp",
        server: "capture = \"udp\"\n",
        firewall: "hint-filter = false\n",
        accept: "        udp dport 62201 accept\n",
    },
];

/// Bytes of the tag at the end of a datagram.
const TAG: usize = 32;

impl SpaKnock {
    fn config(&self, dir: &str, setup: Setup) -> String {
        let mut text = format!(
            r#"[server]
id = "bastion.test"
{}per-key-limit = {{ burst = 100000, rate = "10000/s" }}
grants = 32768
state_dir = "{dir}/state"
keys_dir = "{dir}/keys"
control = "{dir}/control.sock"
audit = "{dir}/audit.jsonl"
user = "nobody"

[firewall]
protect = ["tcp/22"]
{}
[action.open-ssh]
open = ["tcp/22"]
for = "{}s"
"#,
            self.server, self.firewall, setup.seconds
        );
        for n in 1..=setup.clients {
            write!(text, "\n[client.c{n}]\nkey = \"c{n}.key\"\nallow = [\"open-ssh\"]\n").unwrap();
        }
        text
    }
}

impl Peer for SpaKnock {
    fn key(&self) -> &'static str {
        self.key
    }

    fn tool(&self) -> &'static str {
        "spa-knock"
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn configure(&self, lab: &Lab, dir: &Path, setup: Setup) {
        fs::write(dir.join("firewall.nft"), FIREWALL.replace("ACCEPT", self.accept)).unwrap();
        lab.server.nft(&format!("-f {}/firewall.nft", dir.display()));
        for name in ["keys", "state"] {
            fs::DirBuilder::new().mode(0o700).create(dir.join(name)).unwrap();
        }
        fs::write(dir.join("spa-knockd.toml"), self.config(&dir.display().to_string(), setup)).unwrap();
        for n in 1..=setup.clients {
            let secret = PairSecret::new(Secret::generate().unwrap());
            let key = KeyFile {
                client: Some(format!("c{n}").parse().unwrap()),
                holder: KeyOwner::Pair { server: "bastion.test".parse().unwrap(), secret },
                address: None,
                port: None,
                ssh_key: None,
            };
            let path = dir.join(format!("keys/c{n}.key"));
            fs::write(&path, key.to_text().as_bytes()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn daemons(&self, dir: &Path) -> Vec<String> {
        let (program, dir) = (programs::spa_knock("spa-knockd"), dir.display());
        vec![format!("exec {program} run -c {dir}/spa-knockd.toml 2>{dir}/log")]
    }

    fn is_ready(&self, _: &Lab, dir: &Path) -> bool {
        fs::read_to_string(dir.join("log")).is_ok_and(|log| log.contains("ready"))
    }

    fn knock(&self, dir: &Path, setup: Setup, _: Ipv4Addr) -> Command {
        let mut command = Command::new(programs::spa_knock("spa-knock"));
        command.arg("--key").arg(dir.join(format!("keys/c{}.key", setup.clients)));
        command.arg(SERVER.to_string()).arg("open-ssh");
        command
    }

    fn filter(&self) -> &'static str {
        "udp dst port 62201"
    }

    fn forgeries(&self) -> &'static [(&'static str, &'static str)] {
        &[("random-hint", "random bytes"), ("recorded-hint", "a recorded knock with another tag")]
    }

    fn forge(&self, kind: &str, recorded: &[Packet], dice: &mut Dice) -> Packet {
        let Some(Packet::Udp { payload, .. }) = recorded.first() else { panic!("no knock was recorded") };
        let changed = if kind == "random-hint" { payload.len() } else { TAG };
        with_other_end(recorded, changed, None, dice)
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        vec![
            ("spa-knockd.toml", self.config("DIR", Setup::USUAL)),
            ("the firewall before", FIREWALL.replace("ACCEPT", self.accept)),
        ]
    }
}
