//! The power fails: what the disk holds at a random instant, under knocks, is all that the next boot finds. No knock
//! of before is believed again, not even when that start is killed or loses its power too.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, thread};

use spa_knock_core::crypto::random;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, Mounts, SERVER4, Site, ask, full, knock, limited, within,
};

/// As large as windows are: whatever was sent in this trial is fresh to its end, and only the memory of it keeps it out.
const WINDOW: &str = "window = \"600s\"\nper-key-limit = { burst = 100000, rate = \"10000/s\" }\n";
/// By how many seconds the clocks of the clients are ahead.
const AHEAD: [u64; 5] = [0, 3, 30, 250, 595];
const PATIENCE: Duration = Duration::from_secs(10);
/// Starts after each power cut that are killed before one is not.
const STARTS_KILLED: usize = 2;
/// Knocks between two power cuts, at least: all kinds of clients are among them.
const KNOCKS_BETWEEN: usize = 10;
/// Knocks on their way at a time; more could be dropped where a queue is full.
const BATCH: usize = 50;

/// A folder on a disk of its own.
struct Disk {
    image: PathBuf,
    mounts: Mounts,
}

impl Disk {
    /// An image with a file system and nothing in it.
    fn format(image: PathBuf) -> Self {
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let words = ["-q", "-b", "1024", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
        let output = limited("mkfs.ext4").args(words).arg(&image).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { image, mounts: Mounts::new() }
    }

    /// The image as another machine left it.
    fn of(image: PathBuf, content: &[u8]) -> Self {
        fs::write(&image, content).unwrap();
        Self { image, mounts: Mounts::new() }
    }

    /// Mounts it where this site has its state.
    fn mount(&self, site: &Site) {
        let folder = site.path("state");
        self.mounts.mount(&["-o", "loop,commit=1", self.image.to_str().unwrap()], &folder);
        self.mounts.run("chmod", &["700", folder.to_str().unwrap()]);
    }

    /// Lets its daemons believe that this is another boot.
    fn boot(&self, site: &Site) {
        let path = site.path("boot_id");
        let hex: String = random::<16>().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        fs::write(&path, parts.join("-") + "\n").unwrap();
        self.mounts.mount(&["--bind", path.to_str().unwrap()], Path::new("/proc/sys/kernel/random/boot_id"));
    }

    /// Whether its lease says that a daemon did not end well.
    fn was_cut(&self, site: &Site) -> bool {
        let state = site.path("state");
        let [state, lease] =
            [state.clone(), state.join("replay.lease")].map(|path| path.display().to_string());
        self.mounts.run("ls", &[&state]).contains("replay.lease")
            && self.mounts.run("cat", &[&lease]).contains("end open")
    }

    /// What is on the disk now; another time when something is just being written.
    fn content(&self) -> Vec<u8> {
        loop {
            let content = fs::read(&self.image).unwrap();
            if fs::read(&self.image).unwrap() == content {
                return content;
            }
        }
    }

    /// The daemon of this site, with its state on this disk.
    fn command(&self, site: &Site) -> Command {
        let [nsenter, entrance] = self.mounts.words();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::words(site));
        command
    }
}

/// A machine that is knocked at.
struct Machine {
    lab: Lab,
    site: Site,
    disk: Disk,
    /// Which daemon it has; 0 when none that is ready.
    life: AtomicU32,
    /// Held while no knock is to be under way.
    quiet: Mutex<()>,
    sent: Mutex<Vec<Sent>>,
    over: AtomicBool,
}

/// A knock.
#[derive(Clone)]
struct Sent {
    datagram: Vec<u8>,
    /// Whether some daemon has taken or refused it for certain.
    decided: bool,
}

impl Sent {
    /// The first 8 bytes of its id, as the audit log has them.
    fn id(&self) -> String {
        self.datagram[8..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Machine {
    fn new() -> Option<Self> {
        let lab = Lab::new()?;
        let site = site();
        let disk = Disk::format(site.path("disk.img"));
        disk.mount(&site);
        let (life, over) = (AtomicU32::default(), AtomicBool::default());
        Some(Self { lab, site, disk, life, quiet: Mutex::default(), sent: Mutex::default(), over })
    }

    /// Knocks, one after the other, until it is over.
    fn knock(&self) {
        let keys: Vec<_> = (0..AHEAD.len()).map(|n| self.site.key(&client(n))).collect();
        let socket = self.lab.client.udp(CLIENT4);
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        while !self.over.load(Ordering::SeqCst) {
            let n = below(AHEAD.len());
            let mut knock = knock("open-ssh");
            knock.timestamp = knock.timestamp.plus(Duration::from_secs(AHEAD[n]));
            let datagram = keys[n].seal(&knock).as_bytes().to_vec();
            let place = {
                let mut sent = self.sent.lock().unwrap();
                sent.push(Sent { datagram: datagram.clone(), decided: false });
                sent.len() - 1
            };
            while !self.over.load(Ordering::SeqCst) && !self.decides(&socket, &datagram) {
                pause(5);
            }
            self.sent.lock().unwrap()[place].decided = true;
            pause(15);
        }
    }

    /// Sends a knock; whether there was a daemon all the time, or it answered.
    fn decides(&self, socket: &UdpSocket, datagram: &[u8]) -> bool {
        let _under_way = self.quiet.lock().unwrap();
        let life = self.life.load(Ordering::SeqCst);
        ask(socket, SERVER4, datagram).is_some() || life != 0 && life == self.life.load(Ordering::SeqCst)
    }

    /// One daemon after the other, each with another end, until it is over.
    fn live(&self) {
        for life in 1.. {
            let mut daemon = Daemon::start_command(&self.lab.server, self.disk.command(&self.site));
            self.life.store(life, Ordering::SeqCst);
            for _ in 0..below(4) {
                pause(400);
                if below(2) == 0 {
                    self.disk.mounts.run("sync", &["-f", self.site.path("state").to_str().unwrap()]);
                }
            }
            let clean = (below(2) == 0).then(|| self.quiet.lock().unwrap());
            self.life.store(0, Ordering::SeqCst);
            match clean {
                Some(_) => assert!(daemon.terminate().success()),
                None => daemon.kill9(),
            }
            pause(100);
            if self.over.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// What the next boot makes of a disk.
struct Aftermath {
    /// Whether a daemon was running.
    cut: bool,
    /// Knocks that were believed again.
    again: usize,
}

/// Starts a machine with this disk, kills so many starts, now and then by another power cut, and knocks at the next as
/// was knocked before.
fn aftermath(lab: &Lab, keys: &Site, content: &[u8], sent: &[Sent], killed: usize) -> Aftermath {
    let site = site();
    for n in 0..AHEAD.len() {
        fs::copy(keys.key_path(&client(n)), site.key_path(&client(n))).unwrap();
    }
    let mut disk = Disk::of(site.path("disk-0.img"), content);
    disk.mount(&site);
    disk.boot(&site);
    let cut = disk.was_cut(&site);
    for start in 1..=killed {
        let mut dying = Daemon::launch(&lab.server, disk.command(&site));
        pause(80);
        dying.kill9();
        if below(2) == 0 {
            disk = Disk::of(site.path(&format!("disk-{start}.img")), &disk.content());
            disk.mount(&site);
            disk.boot(&site);
        }
    }
    let daemon = Daemon::start_command(&lab.server, disk.command(&site));
    replay(lab, &site, sent);
    drop(daemon);
    let granted: HashSet<String> =
        site.audit_of("granted").iter().map(|record| record["knock"].as_str().unwrap().to_owned()).collect();
    // One that was under way as a daemon ended well may be new.
    let certain = sent.iter().filter(|knock| cut || knock.decided);
    Aftermath { cut, again: certain.filter(|knock| granted.contains(&knock.id())).count() }
}

/// Sends all of them again, and waits until each has been judged.
fn replay(lab: &Lab, site: &Site, sent: &[Sent]) {
    let socket = lab.client.udp(CLIENT4);
    // The audit log gathers what is refused again and again; the daemon counts each.
    let judged = || {
        let output = lab.server.output(&mut site.admin(&["status", "--json"]));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let ends = status["knocks"].as_array().into_iter().flatten();
        usize::try_from(ends.filter_map(|end| end["count"].as_u64()).sum::<u64>()).unwrap()
    };
    let before = judged();
    for (place, batch) in sent.chunks(BATCH).enumerate() {
        for knock in batch {
            socket.send_to(&knock.datagram, (SERVER4, KNOCK_PORT)).unwrap();
        }
        let expected = before + place * BATCH + batch.len();
        assert!(within(PATIENCE, || judged() >= expected), "{} of {expected} were judged", judged());
    }
}

fn pause(most: usize) {
    thread::sleep(Duration::from_millis(below(most).try_into().unwrap()));
}

/// A random number below this one.
fn below(bound: usize) -> usize {
    usize::from(u16::from_be_bytes(random().unwrap())) % bound
}

#[test]
fn after_a_power_cut_at_any_instant_no_knock_is_believed_again() {
    let Some(after) = Lab::new() else { return };
    if !Path::new("/dev/loop-control").exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI this test runs");
        println!("needs loop devices (/dev/loop-control): this test");
        return;
    }
    let machine = Machine::new().unwrap();
    let (instants, mut cuts, mut again, mut most) = (if full() { 50 } else { 3 }, 0, 0, 0);
    thread::scope(|scope| {
        let over = Over(&machine.over);
        scope.spawn(|| machine.live());
        scope.spawn(|| machine.knock());
        for instant in 1..=instants {
            pause(700);
            // On a busy machine there are few by then.
            let enough = || machine.sent.lock().unwrap().len() >= instant * KNOCKS_BETWEEN;
            assert!(within(PATIENCE, enough), "it is not knocked at");
            // What is sent from here on may have come after the instant.
            let sent = machine.sent.lock().unwrap().clone();
            let content = machine.disk.content();
            let aftermath = aftermath(&after, &machine.site, &content, &sent, STARTS_KILLED);
            cuts += usize::from(aftermath.cut);
            again += aftermath.again;
            most = most.max(sent.len());
        }
        drop(over);
    });
    println!(
        "power cut at {instants} instants, {cuts} of them in a daemon's life: of up to {most} knocks {again} were believed \
         again; {STARTS_KILLED} starts of each were killed"
    );
    assert_eq!(again, 0);

    // The instrument: where nothing is remembered, those ahead of the clock are believed. (By a first start: one that is
    // killed may leave a lease, and after a power cut nothing is believed up to there.)
    let sent = machine.sent.lock().unwrap().clone();
    let blank = Disk::format(machine.site.path("blank.img"));
    let content = blank.content();
    assert!(aftermath(&after, &machine.site, &content, &sent, 0).again > 0, "the trial finds nothing");
}

/// Ends what runs beside, also when a check fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn client(n: usize) -> String {
    format!("client-{n}")
}

fn site() -> Site {
    let clients: String = (0..AHEAD.len())
        .map(|n| format!("[client.{0}]\nkey = \"{0}.key\"\nallow = [\"open-ssh\"]\n", client(n)))
        .collect();
    let rest = "[firewall]\nprotect = [\"tcp/22\"]\n[action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"1s\"\n";
    let site = Site::new(WINDOW, &(rest.to_owned() + &clients));
    for n in 0..AHEAD.len() {
        site.add_key(&client(n));
    }
    site
}
