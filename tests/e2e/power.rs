//! Power failures: the next boot finds only what was on the disk at a random instant, while knocks arrived. No earlier
//! knock is accepted again, even if the next start is killed or loses power too.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use spa_knock_core::crypto::random;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Key, Lab, Mounts, SERVER4, SOON, Site, ask, full, knock, limited, within,
};

/// The largest window, so that knocks stay fresh for long. Only the replay memory can refuse a fresh one.
const WINDOW: &str = "window = \"600s\"\nper-key-limit = { burst = 100000, rate = \"10000/s\" }\n";
/// How many seconds the clients' clocks are ahead.
const AHEAD: [u64; 5] = [0, 3, 30, 250, 595];
/// For how long a knock is replayed whose timestamp was the time: a minute less than the window.
const FRESH: Duration = Duration::from_secs(540);
/// Number of starts after each power cut that are killed.
const STARTS_KILLED: usize = 2;
/// Minimum number of knocks between two power cuts, so that all clients are among them.
const KNOCKS_BETWEEN: usize = 10;
/// Number of knocks sent without waiting; more could overflow a queue.
const BATCH: usize = 50;

/// A folder on a separate disk.
struct Disk {
    image: PathBuf,
    mounts: Mounts,
}

impl Disk {
    /// Creates an image with an empty file system.
    fn format(image: PathBuf) -> Self {
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let args = ["-q", "-b", "1024", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"];
        let output = limited("mkfs.ext4").args(args).arg(&image).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { image, mounts: Mounts::new() }
    }

    /// Creates an image with this content.
    fn of(image: PathBuf, content: &[u8]) -> Self {
        fs::write(&image, content).unwrap();
        Self { image, mounts: Mounts::new() }
    }

    /// Mounts the image at this site's state folder.
    fn mount(&self, site: &Site) {
        let folder = site.path("state");
        self.mounts.mount(&["-o", "loop,commit=1", self.image.to_str().unwrap()], &folder);
        self.mounts.run("chmod", &["700", folder.to_str().unwrap()]);
    }

    /// Changes the boot id that this disk's daemons see, as a reboot does.
    fn boot(&self, site: &Site) {
        let path = site.path("boot_id");
        let hex: String = random::<16>().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
        fs::write(&path, parts.join("-") + "\n").unwrap();
        self.mounts.mount(&["--bind", path.to_str().unwrap()], Path::new("/proc/sys/kernel/random/boot_id"));
    }

    /// Whether its lease shows that a daemon was not stopped cleanly.
    fn was_cut(&self, site: &Site) -> bool {
        let state = site.path("state");
        let [state, lease] =
            [state.clone(), state.join("replay.lease")].map(|path| path.display().to_string());
        self.mounts.run("ls", &[&state]).contains("replay.lease")
            && self.mounts.run("cat", &[&lease]).contains("end open")
    }

    /// The content of the disk now. If it changes during the read, it is read again.
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
        let [nsenter, entrance] = self.mounts.nsenter();
        let mut command = Command::new(nsenter);
        command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::arguments(site));
        command
    }
}

/// A machine that receives knocks.
struct Machine {
    lab: Lab,
    site: Site,
    disk: Disk,
    /// The number of the current daemon; 0 if no daemon is ready.
    life: AtomicU32,
    /// Locked while a knock is being sent, and while no knock must be sent.
    sending: Mutex<()>,
    sent: Mutex<Vec<Sent>>,
    stopped: AtomicBool,
}

/// A knock.
#[derive(Clone)]
struct Sent {
    datagram: Vec<u8>,
    /// From then on it is refused because of its age, and not replayed.
    stale: Instant,
    /// Whether a daemon has certainly accepted or refused it.
    decided: bool,
}

impl Sent {
    /// The first 8 bytes of its knock id, as in the audit log.
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
        let (life, stopped) = (AtomicU32::default(), AtomicBool::default());
        Some(Self { lab, site, disk, life, sending: Mutex::default(), sent: Mutex::default(), stopped })
    }

    /// Sends one knock after another until `stopped`.
    fn knock(&self) {
        let keys: Vec<_> = (0..AHEAD.len()).map(|n| self.site.key(&client(n))).collect();
        while !self.stopped.load(Ordering::SeqCst) {
            let knock = self.new_knock(&keys);
            while !self.stopped.load(Ordering::SeqCst) && !self.decides(&knock, &keys) {
                pause(5);
            }
            pause(15);
        }
    }

    /// A new knock of a random client, and its place in `sent`.
    fn new_knock(&self, keys: &[Key]) -> (usize, Vec<u8>) {
        let n = random_below(keys.len());
        let ahead = Duration::from_secs(AHEAD[n]);
        let mut knock = knock("open-ssh");
        knock.timestamp = knock.timestamp.plus(ahead);
        let datagram = keys[n].seal(&knock).as_bytes().to_vec();
        let mut sent = self.sent.lock().unwrap();
        sent.push(Sent { datagram: datagram.clone(), stale: Instant::now() + FRESH + ahead, decided: false });
        (sent.len() - 1, datagram)
    }

    /// Sends a knock. Returns whether a daemon has certainly judged it: it has replied, or, because a replay gets no
    /// reply, it has replied to a later knock and was running all the time.
    fn decides(&self, knock: &(usize, Vec<u8>), keys: &[Key]) -> bool {
        let _guard = self.sending.lock().unwrap();
        let life = self.life.load(Ordering::SeqCst);
        let is_decided = self.replies_to(knock)
            || life != 0
                && self.replies_to(&self.new_knock(keys))
                && life == self.life.load(Ordering::SeqCst);
        self.sent.lock().unwrap()[knock.0].decided |= is_decided;
        is_decided
    }

    /// Sends a knock. Returns whether a reply to it has arrived: each is sent from a socket of its own.
    fn replies_to(&self, (place, datagram): &(usize, Vec<u8>)) -> bool {
        let socket = self.lab.client.udp(CLIENT4);
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let replies = ask(&socket, SERVER4, datagram).is_some();
        self.sent.lock().unwrap()[*place].decided |= replies;
        replies
    }

    /// Runs one daemon after another until `stopped`; each is stopped or killed at random.
    fn live(&self) {
        for life in 1.. {
            let mut daemon = Daemon::start_command(&self.lab.server, self.disk.command(&self.site));
            self.life.store(life, Ordering::SeqCst);
            for _ in 0..random_below(4) {
                pause(400);
                if random_below(4) == 0 {
                    starve(&daemon);
                }
                if random_below(2) == 0 {
                    self.disk.mounts.run("sync", &["-f", self.site.path("state").to_str().unwrap()]);
                }
            }
            let clean = (random_below(2) == 0).then(|| self.sending.lock().unwrap());
            self.life.store(0, Ordering::SeqCst);
            match clean {
                Some(_) => assert!(daemon.terminate().success()),
                None => daemon.kill9(),
            }
            pause(100);
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Lets a daemon not run for a moment, as on a busy machine.
fn starve(daemon: &Daemon) {
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    pause(600);
    kill(daemon.id(), Signal::SIGCONT).unwrap();
}

/// The result of the next boot with a disk.
struct Aftermath {
    /// Whether a daemon was running.
    cut: bool,
    /// The knocks that were accepted again.
    accepted_again: Vec<String>,
}

/// Starts a machine with this disk, kills `killed` starts, some by another power cut, and replays all knocks to the
/// next daemon.
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
        if random_below(2) == 0 {
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
    // After a clean stop, a knock that was on its way may not have been decided yet.
    let must_be_refused = sent.iter().filter(|knock| cut || knock.decided);
    Aftermath {
        cut,
        accepted_again: must_be_refused.map(Sent::id).filter(|id| granted.contains(id)).collect(),
    }
}

/// Sends all fresh knocks again and waits until the daemon has judged each of them.
fn replay(lab: &Lab, site: &Site, sent: &[Sent]) {
    let socket = lab.client.udp(CLIENT4);
    // The audit log summarizes repeated refusals, so use the daemon's counters.
    let judged = || {
        let output = lab.server.output(&mut site.admin(&["status", "--json"]));
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let results = status["knocks"].as_array().into_iter().flatten();
        usize::try_from(results.filter_map(|result| result["count"].as_u64()).sum::<u64>()).unwrap()
    };
    let before = judged();
    let fresh: Vec<_> = sent.iter().filter(|knock| Instant::now() < knock.stale).collect();
    for (place, batch) in fresh.chunks(BATCH).enumerate() {
        for knock in batch {
            socket.send_to(&knock.datagram, (SERVER4, KNOCK_PORT)).unwrap();
        }
        let expected = before + place * BATCH + batch.len();
        assert!(within(SOON, || judged() >= expected), "{} of {expected} were judged", judged());
    }
}

fn pause(most: usize) {
    thread::sleep(Duration::from_millis(random_below(most).try_into().unwrap()));
}

/// A random number below `bound`.
fn random_below(bound: usize) -> usize {
    usize::from(u16::from_be_bytes(random().unwrap())) % bound
}

#[test]
fn no_knock_is_accepted_again_after_a_power_cut_at_any_instant() {
    let Some(after) = Lab::new() else { return };
    if !Path::new("/dev/loop-control").exists() {
        assert!(std::env::var_os("CI").is_none(), "in CI this test runs");
        println!("skipped: needs loop devices (/dev/loop-control)");
        return;
    }
    let machine = Machine::new().unwrap();
    let (instants, mut cuts, mut most) = (if full() { 50 } else { 3 }, 0, 0);
    let mut accepted_again = Vec::new();
    thread::scope(|scope| {
        let guard = StopOnDrop(&machine.stopped);
        scope.spawn(|| machine.live());
        scope.spawn(|| machine.knock());
        for instant in 1..=instants {
            pause(700);
            // On a busy machine there may be too few knocks.
            let enough = || machine.sent.lock().unwrap().len() >= instant * KNOCKS_BETWEEN;
            assert!(within(SOON, enough), "the machine receives knocks");
            // Knocks sent from now on may arrive after the instant.
            let sent = machine.sent.lock().unwrap().clone();
            let content = machine.disk.content();
            let aftermath = aftermath(&after, &machine.site, &content, &sent, STARTS_KILLED);
            cuts += usize::from(aftermath.cut);
            for id in aftermath.accepted_again {
                let before: Vec<_> =
                    machine.site.audit().into_iter().filter(|record| record["knock"] == *id).collect();
                accepted_again
                    .push(format!("{id} at instant {instant} (cut: {}), before: {before:?}", aftermath.cut));
            }
            most = most.max(sent.len());
        }
        drop(guard);
    });
    println!(
        "power cut at {instants} instants, {cuts} of them while a daemon was running: of up to {most} knocks, \
         {} were accepted again; {STARTS_KILLED} starts after each were killed",
        accepted_again.len()
    );
    assert!(accepted_again.is_empty(), "{accepted_again:#?}");

    // Check the test itself: without a replay memory, knocks ahead of the clock are accepted. No start is killed here,
    // because it may leave a lease, and after a power cut no knocks up to the lease are accepted.
    let sent = machine.sent.lock().unwrap().clone();
    let blank = Disk::format(machine.site.path("blank.img"));
    let content = blank.content();
    assert!(
        !aftermath(&after, &machine.site, &content, &sent, 0).accepted_again.is_empty(),
        "the test finds accepted replays"
    );
}

/// Stops the other threads when dropped, also if an assertion fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
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
