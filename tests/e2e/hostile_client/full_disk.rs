//! The disk: when one client has filled it, others can still knock, and the daemon still starts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use spa_knock_core::knock::ReplyStatus;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Mounts, NEIGHBOR4, SERVER4, Site, ask, full, knock, limited, within,
};

/// Size of the disk in bytes.
const SIZE: u64 = 12 << 20;

/// A site whose state and audit log are on a separate disk.
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
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::arguments(&self.site));
        command
    }

    fn start(&self) -> Daemon {
        Daemon::start_command(&self.lab.server, self.command())
    }

    /// Fills the disk to the last byte.
    fn fill(&self) {
        let script = "for size in 65536 1024 1; do dd if=/dev/zero bs=$size of=$0/fill-$size 2>/dev/null; done; sync -f $0";
        self.mounts.run("sh", &["-c", &format!("{script}; true"), self.disk.to_str().unwrap()]);
    }

    /// Sends a knock. Returns the datagram and the status of the reply.
    fn knock(&self) -> (Vec<u8>, Option<ReplyStatus>) {
        let laptop = self.site.key("laptop");
        let datagram = laptop.seal(&knock("open-ssh"));
        let reply = ask(&self.lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes());
        let status = reply.map(|reply| laptop.open(&reply, &datagram).status);
        (datagram.as_bytes().to_vec(), status)
    }
}

fn mount(mounts: &Mounts, kind: &str, image: &Path, disk: &Path) {
    if kind == "tmpfs" {
        return mounts.mount(&["-t", "tmpfs", "-o", &format!("size={SIZE},mode=0700"), "none"], disk);
    }
    File::create(image).unwrap().set_len(SIZE).unwrap();
    let args = ["-q", "-b", "1024", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
    let output = limited("mkfs.ext4").args(args).arg(image).output().unwrap();
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
        for (stop, count) in [("none", 200), ("SIGTERM", 20), ("kill -9", 20), ("SIGTERM", 20)] {
            match stop {
                "none" => {}
                "SIGTERM" => assert!(daemon.terminate().success(), "{kind}: {}", daemon.log()),
                _ => daemon.kill9(),
            }
            if stop != "none" {
                assert!(!machine.lab.neighbor.reaches(SERVER4, 22), "{kind}, {stop}: closed");
                daemon = machine.start();
            }
            sent.extend((0..if full() { count * 10 } else { count }).map(|_| machine.knock()));
            let refused: Vec<_> =
                sent.iter().filter(|(_, status)| *status != Some(ReplyStatus::Granted)).collect();
            assert!(refused.is_empty(), "{kind}, {stop}: {} refused: {}", refused.len(), daemon.log());
            assert!(!machine.lab.neighbor.reaches(SERVER4, 22), "{kind}, {stop}: closed for others");
        }
        // Accepted knocks are still refused as replays. They are sent from another port, for which no reply is stored.
        for (datagram, _) in &sent[sent.len() - 25..] {
            let is_accepted = is_answered_within_60_ms(&machine.lab, datagram);
            assert!(!is_accepted, "{kind}: accepted again");
        }
    }
}

fn is_answered_within_60_ms(lab: &Lab, datagram: &[u8]) -> bool {
    let socket = lab.neighbor.udp(NEIGHBOR4);
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
    assert!(within(Duration::from_secs(5), || daemon.has_exited()));
    assert!(within(Duration::from_secs(2), || daemon.log().contains("no space left")), "{}", daemon.log());
    assert!(daemon.log().contains("disk/state"), "{}", daemon.log());
    assert!(machine.lab.client.reaches(SERVER4, 22), "it has not closed any port");
}
