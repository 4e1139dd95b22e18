//! The disk: when one client has filled it, others still knock, and the daemon still starts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use spa_knock_core::knock::ReplyStatus;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Mounts, NEIGHBOUR4, SERVER4, Site, ask, full, knock, limited, within,
};

/// Bytes of the disk.
const SIZE: u64 = 12 << 20;

/// A site whose state and audit log are on a disk of their own.
struct Machine {
    lab: Lab,
    site: Site,
    mounts: Mounts,
    disk: PathBuf,
}

impl Machine {
    fn new(kind: &str) -> Option<Self> {
        let lab = Lab::new()?;
        let site = Site::new("", "");
        let rest = "[firewall]\nprotect = [\"tcp/22\"]\n\
             [action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"1s\"\n\
             [client.laptop]\nkey = \"laptop.key\"\nallow = [\"open-ssh\"]\nuses = 100000\n\
             per-key-limit = { burst = 100000, rate = \"1000/s\" }\n";
        site.write_config("", rest);
        let config = site.path("spa-knockd.toml");
        let text = fs::read_to_string(&config).unwrap();
        let text = text.replace("/state\"", "/disk/state\"").replace("/audit.jsonl", "/disk/audit.jsonl");
        fs::write(&config, text).unwrap();
        let (mounts, disk) = (Mounts::new(), site.path("disk"));
        fs::create_dir(&disk).unwrap();
        mount(&mounts, kind, &site.path("image"), &disk);
        mounts.run("chmod", &["700", disk.to_str().unwrap()]);
        Some(Self { lab, site, mounts, disk })
    }

    fn command(&self) -> Command {
        let [nsenter, entrance] = self.mounts.words();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::words(&self.site));
        command
    }

    fn start(&self) -> Daemon {
        Daemon::start_command(&self.lab.server, self.command())
    }

    /// Not a byte is left.
    fn fill(&self) {
        let script = "for size in 65536 1024 1; do dd if=/dev/zero bs=$size of=$0/fill-$size 2>/dev/null; done; sync -f $0";
        self.mounts.run("sh", &["-c", &format!("{script}; true"), self.disk.to_str().unwrap()]);
    }

    /// A knock; what the server says to it.
    fn knock(&self) -> (Vec<u8>, Option<ReplyStatus>) {
        let laptop = self.site.key("laptop");
        let datagram = laptop.seal(&knock("open-ssh"));
        let answer = ask(&self.lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes());
        let status = answer.map(|answer| laptop.open(&answer, &datagram).status);
        (datagram.as_bytes().to_vec(), status)
    }
}

fn mount(mounts: &Mounts, kind: &str, image: &Path, disk: &Path) {
    if kind == "tmpfs" {
        return mounts.mount(&["-t", "tmpfs", "-o", &format!("size={SIZE},mode=0700"), "none"], disk);
    }
    File::create(image).unwrap().set_len(SIZE).unwrap();
    let words = ["-q", "-b", "1024", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
    let output = limited("mkfs.ext4").args(words).arg(image).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    mounts.mount(&["-o", "loop", image.to_str().unwrap()], disk);
}

#[test]
fn a_full_disk_stops_neither_knocks_nor_a_restart() {
    for kind in ["tmpfs", "ext4"] {
        let Some(machine) = Machine::new(kind) else { return };
        machine.lab.server.echo(22);
        let mut daemon = machine.start();
        let mut sent = vec![machine.knock()];
        machine.fill();
        for (end, count) in [("none", 200), ("SIGTERM", 20), ("kill -9", 20), ("SIGTERM", 20)] {
            match end {
                "none" => {}
                "SIGTERM" => assert!(daemon.terminate().success(), "{kind}: {}", daemon.log()),
                _ => daemon.kill9(),
            }
            if end != "none" {
                assert!(!machine.lab.neighbour.reaches(SERVER4, 22), "{kind}, {end}: closed");
                daemon = machine.start();
            }
            sent.extend((0..if full() { count * 10 } else { count }).map(|_| machine.knock()));
            let refused: Vec<_> =
                sent.iter().filter(|(_, status)| *status != Some(ReplyStatus::Granted)).collect();
            assert!(refused.is_empty(), "{kind}, {end}: {} refused: {}", refused.len(), daemon.log());
            assert!(!machine.lab.neighbour.reaches(SERVER4, 22), "{kind}, {end}: closed for others");
        }
        // What was accepted is still refused: from a port that no answer is remembered for.
        for (datagram, _) in &sent[sent.len() - 25..] {
            let again = ask_briefly(&machine.lab, datagram);
            assert!(!again, "{kind}: accepted again");
        }
    }
}

fn ask_briefly(lab: &Lab, datagram: &[u8]) -> bool {
    let socket = lab.neighbour.udp(NEIGHBOUR4);
    socket.set_read_timeout(Some(Duration::from_millis(60))).unwrap();
    socket.send_to(datagram, (SERVER4, KNOCK_PORT)).unwrap();
    socket.recv(&mut [0; 256]).is_ok()
}

#[test]
fn a_disk_that_is_full_before_the_first_start_is_named() {
    let Some(machine) = Machine::new("tmpfs") else { return };
    machine.lab.server.echo(22);
    machine.fill();
    let mut daemon = Daemon::launch(&machine.lab.server, machine.command());
    assert!(within(Duration::from_secs(5), || daemon.has_ended()));
    assert!(within(Duration::from_secs(2), || daemon.log().contains("no space left")), "{}", daemon.log());
    assert!(daemon.log().contains("disk/state"), "{}", daemon.log());
    assert!(machine.lab.client.reaches(SERVER4, 22), "it has closed nothing");
}
