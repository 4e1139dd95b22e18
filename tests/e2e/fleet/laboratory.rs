//! Three etcd with mutual TLS and logins, three members, and the knocks of their clients.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use spa_knock_core::crypto::random;
use spa_knock_core::knock::{AddressPolicy, Knock};
use spa_knock_fleet::client::{Login, Patience, StoreClient};
use spa_knock_fleet::keys::StoreKey;
use tempfile::TempDir;

use super::clock::MemberClock;
use super::ledger::Ledger;
use super::network::{FleetNetwork, Host};
use super::volley::{Aim, Volley};
use crate::net::{Daemon, Key, Mounts, NO_LIMITS, Site, limited, within};
use crate::store_support::certificates::Certificates;
use crate::store_support::etcd::{Etcd, EtcdPlace, client_of, program};
use crate::store_support::knocks::{login, set_up, space};

/// The largest difference between a knock's time and a member's clock.
pub(super) const WINDOW: Duration = Duration::from_secs(30);
/// The clients. One key remembers 256 knocks; with several, none is forgotten within the window.
pub(super) const CLIENTS: usize = 12;
/// Time limit for a fleet to grant knocks, after its start and after all faults. An accepted store refuses them for the
/// window and a minute, and so does a member that was started with a clock that was ahead.
const PATIENCE: Duration = Duration::from_secs(150);
/// The capacity of the disk of one etcd. It reserves 64 MiB for its log in advance, and the next 64 MiB, too.
const DISK: u64 = 192 << 20;

/// These tests load the machine with six servers, so they run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

/// A fleet, its store and its network. All of it ends with the test.
pub(super) struct FleetLab {
    pub(super) members: Vec<FleetMember>,
    pub(super) stores: Vec<Etcd>,
    pub(super) network: FleetNetwork,
    pub(super) ledger: Ledger,
    pub(super) keys: Vec<Key>,
    certificates: Certificates,
    /// Where the disk of the last etcd is mounted, if it has its own.
    disk: Option<Mounts>,
    folder: TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// One server of the fleet.
pub(super) struct FleetMember {
    pub(super) host: Host,
    pub(super) site: Site,
    pub(super) clock: MemberClock,
    program: PathBuf,
    daemon: Option<Daemon>,
}

/// What differs between tests.
pub(super) struct FleetSettings<'a> {
    /// Lines for `[fleet]`.
    pub(super) fleet: &'a str,
    /// The daemon.
    pub(super) program: &'a Path,
    /// Whether the last etcd has a small disk of its own. It is slower.
    pub(super) small_disk: bool,
}

impl Default for FleetSettings<'_> {
    fn default() -> Self {
        Self { fleet: "", program: Path::new(Daemon::PROGRAM), small_disk: false }
    }
}

impl FleetLab {
    /// Starts a fleet and waits until each member grants. Returns `None` and prints a line if this user cannot create
    /// namespaces, or etcd is missing.
    pub(super) fn new(settings: &FleetSettings<'_>) -> Option<Self> {
        let mut lab = Self::with_store(settings)?;
        for number in 0..lab.members.len() {
            lab.start_member(number);
        }
        lab.wait_until_all_grant();
        Some(lab)
    }

    /// The same without running members.
    pub(super) fn with_store(settings: &FleetSettings<'_>) -> Option<Self> {
        let lab = Self::with_empty_store(settings)?;
        lab.network.client.enter(|| set_up(&lab.client(None)));
        Some(lab)
    }

    /// The same with a store that has no users and knows no fleet.
    pub(super) fn with_empty_store(settings: &FleetSettings<'_>) -> Option<Self> {
        let etcd = program()?;
        let network = FleetNetwork::new()?;
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix("spa-knock-fleet-").tempdir().unwrap();
        let addresses = Host::STORES.map(|host| host.address().to_string());
        let addresses = addresses.each_ref().map(String::as_str);
        let certificates = Certificates::create_for(&folder.path().join("certificates"), &addresses);
        let disk = settings.small_disk.then(|| small_disk(folder.path()));
        let places = Host::STORES.map(|host| {
            let mut entrance = network.of(host).nsenter().to_vec();
            if host == Host::Store(2) {
                entrance.extend(disk.iter().flat_map(Mounts::nsenter));
            }
            let (name, address) = (host.name(), host.address().to_string());
            EtcdPlace { name, address, client_port: 2379, peer_port: 2380, entrance }
        });
        let stores = Etcd::cluster(&etcd, folder.path(), &places.each_ref(), &certificates);
        let notes = folder.path().join("notes");
        let sites = Host::MEMBERS.map(|_| Site::new("", ""));
        let keys = share_keys(&sites);
        let ledger = Ledger::new(notes.clone(), sites.iter().map(|site| site.path("audit.jsonl")).collect());
        let secret = random::<32>().unwrap();
        let members = Host::MEMBERS.into_iter().zip(sites).map(|(host, site)| {
            write_config(&site, host, settings.fleet, &notes);
            write_fleet_files(&site.path("fleet"), &certificates, &secret);
            let clock = MemberClock::new(site.folder());
            FleetMember { host, site, clock, program: settings.program.to_owned(), daemon: None }
        });
        let members = members.collect();
        let lab = Self { members, stores, network, ledger, keys, certificates, disk, folder, _alone: alone };
        lab.network.client.enter(|| lab.stores[0].wait_until_ready(&lab.client(None)));
        Some(lab)
    }

    /// A client of the store. It must be used in the client's namespace.
    pub(super) fn client(&self, login: Option<&Login>) -> StoreClient {
        client_of(&self.stores, &self.certificates.identity("client"), login)
    }

    /// The index of the leader among the etcd, if one is known.
    pub(super) fn leader(&self) -> Option<usize> {
        let client = self.client(Some(&login("member")));
        let floor = space().path(&StoreKey::Floor);
        let reports = self.network.client.enter(|| client.inspect(&floor, Patience::CLAIM));
        reports.iter().find_map(|report| {
            let status = report.status.as_ref().ok()?;
            let is_leader = status.leader != 0 && status.leader == status.header.member_id;
            is_leader.then(|| self.stores.iter().position(|store| store.url == report.endpoint))?
        })
    }

    /// The certificate of the CA, and certificate and key of a client of the store.
    pub(super) fn tls_files(&self) -> [PathBuf; 3] {
        ["ca.pem", "client.pem", "client.key"].map(|file| self.certificates.folder.join(file))
    }

    /// The URLs of the store, as a command line takes them.
    pub(super) fn endpoints(&self) -> String {
        self.stores.iter().map(|store| store.url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Saves a copy of the store, as an administrator does.
    pub(super) fn save_copy(&self, path: &Path) {
        let [ca, certificate, key] = self.tls_files();
        let save = || {
            let mut command = limited("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", &self.stores[0].url, "--cacert"]).arg(&ca);
            command.arg("--cert").arg(&certificate).arg("--key").arg(&key);
            command.args(["--user", "root:root-password", "snapshot", "save"]).arg(path);
            self.network.client.output(&mut command).status.success()
        };
        // It can have been started just now.
        assert!(within(PATIENCE, save), "{}", self.stores[0].log());
    }

    /// The folder of the laboratory.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Fills the disk of the last etcd, or makes room again.
    pub(super) fn fill_disk(&self, is_full: bool) {
        let Some(disk) = &self.disk else { return };
        let ballast = self.stores[2].data().with_file_name("ballast").display().to_string();
        let script = if is_full {
            format!(
                "dd if=/dev/zero of={ballast} bs=64k status=none; dd if=/dev/zero of={ballast}2 bs=1k status=none; true"
            )
        } else {
            format!("rm -f {ballast} {ballast}2")
        };
        // dd ends when the disk is full, which is not an error here.
        let _ = disk.run("sh", &["-c", &format!("({script}) 2>/dev/null")]);
    }

    /// Starts a member, without waiting for the store.
    pub(super) fn start_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.daemon = Some(Daemon::start_command(self.network.of(member.host), member.run()));
    }

    /// Starts a member, without waiting at all.
    pub(super) fn launch_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        member.daemon = Some(Daemon::launch(self.network.of(member.host), member.run()));
    }

    /// Runs a command of the administrator on a member.
    pub(super) fn admin(&self, number: usize, args: &[&str]) -> Output {
        let member = &self.members[number];
        self.network.of(member.host).output(&mut member.site.admin(args))
    }

    /// The same; it must succeed. Returns its standard output.
    pub(super) fn run_admin(&self, number: usize, args: &[&str]) -> String {
        let output = self.admin(number, args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sends knocks to this aim until one is granted or the time is over. Returns how long that took.
    pub(super) fn time_until_granted(&self, aim: Aim, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        let volley = Volley { client: &self.network.client, keys: &self.keys[..1], aim };
        let granted = within(limit, || volley.fire(1, 1, |_| open_ssh())[0].is_granted());
        granted.then(|| start.elapsed())
    }

    /// Waits until each member has granted a knock that only this member has received.
    pub(super) fn wait_until_all_grant(&self) {
        for member in &self.members {
            let granted = self.time_until_granted(Aim::One(member.host.address()), PATIENCE);
            assert!(
                granted.is_some(),
                "{}: no knock is granted: {:?}\n{}",
                member.host.name(),
                self.ledger.refusals(),
                member.log()
            );
        }
    }
}

impl FleetMember {
    fn run(&self) -> std::process::Command {
        let mut command = self.clock.command(&self.program);
        command.args(Daemon::arguments(&self.site));
        command
    }

    /// The keeper's log so far; of the last daemon.
    pub(super) fn log(&self) -> String {
        self.daemon.as_ref().map(Daemon::log).unwrap_or_default()
    }

    /// The process id of the keeper, unless it was killed.
    pub(super) fn keeper(&self) -> Option<Pid> {
        self.daemon.as_ref().map(Daemon::id)
    }

    /// Kills the keeper.
    pub(super) fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill9();
        }
    }

    /// The process id of the store process.
    pub(super) fn store_process(&self) -> Option<Pid> {
        let is_store = |process: &Pid| {
            let args = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            args.starts_with(b"spa-knock-store")
        };
        self.daemon.as_ref()?.children().into_iter().find(is_store)
    }
}

/// A knock that opens port 22 for the client's address.
pub(super) fn open_ssh() -> Knock {
    let IpAddr::V4(address) = Host::Client.address() else { unreachable!("it is IPv4") };
    Knock { policy: AddressPolicy::Exact, ipv4: Some(address), ..crate::net::knock("open-ssh") }
}

/// One file system of a small size, for the last etcd.
fn small_disk(folder: &Path) -> Mounts {
    let image = folder.join("disk");
    fs::File::create(&image).unwrap().set_len(DISK).unwrap();
    let mounts = Mounts::new();
    mounts.run("mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", image.to_str().unwrap()]);
    let place = folder.join("n3");
    fs::create_dir(&place).unwrap();
    // The loop device goes away with the mount, which goes away with the namespace.
    mounts.mount(&["-o", "loop", image.to_str().unwrap()], &place);
    mounts
}

/// Gives all members the keys of the first one, and returns those of the clients.
fn share_keys(sites: &[Site]) -> Vec<Key> {
    let [first, others @ ..] = sites else { panic!("no member") };
    let names = (1..=CLIENTS).map(|number| format!("client{number}"));
    names
        .map(|name| {
            let key = first.add_key(&name);
            for other in others {
                fs::copy(first.key_path(&name), other.key_path(&name)).unwrap();
            }
            key
        })
        .collect()
}

fn write_config(site: &Site, host: Host, fleet: &str, notes: &Path) {
    let endpoints = Host::STORES.map(|host| format!("\"https://{}:2379\"", host.address())).join(", ");
    let clients: String = (1..=CLIENTS)
        .map(|number| {
            format!(
                "[client.client{number}]\nkey = \"client{number}.key\"\nallow = [\"open-ssh\", \"note\"]\n\
                 source = [\"exact\", \"observed\", \"listed\"]\n"
            )
        })
        .collect();
    site.write_config(
        &format!("{NO_LIMITS}window = \"{}s\"\n", WINDOW.as_secs()),
        &format!(
            "[fleet]\nstore = \"etcd\"\nname = \"prod\"\nmember = \"{member}\"\nendpoints = [{endpoints}]\n{fleet}\n\
             [firewall]\nprotect = [\"tcp/22\"]\n\
             [action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"10s\"\n\
             [action.note]\nrun = {note}\n{clients}",
            member = host.name(),
            note = Ledger::command(notes, &host.name()),
        ),
    );
}

/// The directory `fleet` next to the config, as `fleet join` writes it.
fn write_fleet_files(folder: &Path, certificates: &Certificates, secret: &[u8; 32]) {
    fs::DirBuilder::new().mode(0o700).create(folder).unwrap();
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let texts = [
        ("fleet.key", format!("spa-knock-fleet-key: 1\nfleet: prod\nsecret: {digits}\n")),
        ("login", "user: member\npassword: member-password\n".to_owned()),
        ("admin-login", "user: admin\npassword: admin-password\n".to_owned()),
    ];
    for (name, text) in texts {
        fs::write(folder.join(name), text).unwrap();
    }
    for (from, to) in [("ca.pem", "ca.pem"), ("client.pem", "cert.pem"), ("client.key", "key.pem")] {
        fs::copy(certificates.folder.join(from), folder.join(to)).unwrap();
    }
    for entry in fs::read_dir(folder).unwrap() {
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn the_store_of_the_laboratory_elects_survives_a_full_disk_and_is_restored_from_a_copy() {
    use spa_knock_fleet::client::{KeyRange, RangeRequest};

    use crate::store_support::etcd::SLOW;

    let settings = FleetSettings { small_disk: true, ..FleetSettings::default() };
    let Some(mut lab) = FleetLab::with_store(&settings) else { return };
    let leader = |lab: &FleetLab| within(PATIENCE, || lab.leader().is_some()).then(|| lab.leader());
    assert!(leader(&lab).is_some());
    let floor = RangeRequest::new(KeyRange::one(space().path(&StoreKey::Floor)));
    let read = |lab: &FleetLab| {
        let client = lab.client(Some(&login("member")));
        lab.network.client.enter(|| client.range(&floor, SLOW)).unwrap()
    };
    let cluster = read(&lab).header.cluster_id;
    lab.fill_disk(true);
    let place = lab.stores[2].data().parent().unwrap().to_str().unwrap().to_owned();
    let free = |lab: &FleetLab| {
        let text = lab.disk.as_ref().unwrap().run("df", &["-B1", "--output=avail", &place]);
        text.split_whitespace().last().unwrap().parse::<u64>().unwrap()
    };
    assert_eq!(free(&lab), 0);
    assert_eq!(read(&lab).kvs.len(), 1);
    lab.fill_disk(false);
    assert!(free(&lab) > 10 << 20);
    let copy = lab.folder().join("copy");
    lab.save_copy(&copy);
    for store in &mut lab.stores {
        store.kill();
        store.restore(Path::new("etcdctl"), &copy, "restored");
        store.start();
    }
    assert!(leader(&lab).is_some(), "{}", lab.stores[2].log());
    let restored = read(&lab);
    assert_eq!(restored.kvs.len(), 1);
    assert_ne!(restored.header.cluster_id, cluster);
}
