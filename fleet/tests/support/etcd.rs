//! Starts etcd on loopback or in a network namespace, in a directory of its own, and ends it by its process id, also when
//! a test fails.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use spa_knock_fleet::client::{Endpoint, Login, Patience, RangeRequest, StoreClient, TlsIdentity};

use super::certificates::Certificates;

pub const SLOW: Patience = Patience { each: Duration::from_secs(3), total: Duration::from_secs(30) };

/// Where one etcd runs.
pub struct EtcdPlace {
    pub name: String,
    pub address: String,
    pub client_port: u16,
    pub peer_port: u16,
    /// Program and arguments that run the command after them elsewhere, such as nsenter(1); none = here.
    pub entrance: Vec<String>,
}

/// One etcd, which can be stopped, paused and started again.
pub struct Etcd {
    pub url: String,
    name: String,
    /// The URLs of all, as etcd wants them: `--initial-cluster`.
    cluster: String,
    peer_url: String,
    entrance: Vec<String>,
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
}

/// A directory for etcd: in memory, if there is room for all tests. A flush to a busy disk can take longer than a client
/// waits.
pub fn folder() -> tempfile::TempDir {
    const ROOM: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let output = Command::new("df").args(["--output=avail", "--block-size=1"]).arg(memory).output().unwrap();
    let free =
        String::from_utf8_lossy(&output.stdout).lines().nth(1).and_then(|line| line.trim().parse().ok());
    if free.is_some_and(|free: u64| free >= ROOM) {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
    .unwrap()
}

/// Why tests with etcd are skipped here.
pub fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.push(PathBuf::from("/usr/bin"));
    let found = folders.into_iter().map(|folder| folder.join("etcd")).find(|program| program.is_file());
    if found.is_none() {
        assert!(std::env::var_os("SPA_KNOCK_FULL").is_none(), "etcd is missing: apt-get install etcd-server");
        eprintln!("skipped: etcd is missing: apt-get install etcd-server");
    }
    found
}

impl Etcd {
    /// A store of one member without TLS.
    pub fn alone(program: &Path, folder: &Path) -> Self {
        Self::alone_with(program, folder, &[])
    }

    /// The same, with further arguments.
    pub fn alone_with(program: &Path, folder: &Path, arguments: &[&str]) -> Self {
        let [place] = on_loopback(["one"]);
        let mut etcd = Self::new(program, folder, &place, &[&place], None);
        etcd.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        etcd.start();
        etcd.wait_until_ready(&etcd.client(None));
        etcd
    }

    /// A store of three members with mutual TLS.
    pub fn three(program: &Path, folder: &Path, certificates: &Certificates) -> Vec<Self> {
        Self::cluster(program, folder, &on_loopback(["n1", "n2", "n3"]).each_ref(), certificates)
    }

    /// A store with a member in each of these places, with mutual TLS.
    pub fn cluster(
        program: &Path,
        folder: &Path,
        places: &[&EtcdPlace],
        certificates: &Certificates,
    ) -> Vec<Self> {
        let new = |place: &&EtcdPlace| Self::new(program, folder, place, places, Some(certificates));
        let mut members: Vec<_> = places.iter().map(new).collect();
        members.iter_mut().for_each(Self::start);
        members
    }

    fn new(
        program: &Path,
        folder: &Path,
        place: &EtcdPlace,
        places: &[&EtcdPlace],
        certificates: Option<&Certificates>,
    ) -> Self {
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}:{}", place.address, place.client_port);
        let peer_url = |place: &EtcdPlace| format!("{scheme}://{}:{}", place.address, place.peer_port);
        let own_peer = peer_url(place);
        let cluster: Vec<_> =
            places.iter().map(|place| format!("{}={}", place.name, peer_url(place))).collect();
        let cluster = cluster.join(",");
        let folder = folder.join(&place.name);
        let data = folder.join("data");
        let mut arguments: Vec<String> = [
            ("--name", place.name.as_str()),
            ("--data-dir", data.to_str().unwrap()),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &own_peer),
            ("--initial-advertise-peer-urls", &own_peer),
            ("--initial-cluster", &cluster),
            ("--initial-cluster-token", "fleet-test"),
            ("--initial-cluster-state", "new"),
            ("--logger", "zap"),
            ("--log-level", "warn"),
            // A password is hashed in 2 ms, not in 100.
            ("--bcrypt-cost", "4"),
        ]
        .iter()
        .flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()])
        .collect();
        if let Some(certificates) = certificates {
            let path = |file: &str| certificates.folder.join(file).to_str().unwrap().to_owned();
            for side in ["", "peer-"] {
                arguments.push(format!("--{side}client-cert-auth"));
                for (name, file) in
                    [("trusted-ca-file", "ca.pem"), ("cert-file", "server.pem"), ("key-file", "server.key")]
                {
                    arguments.extend([format!("--{side}{name}"), path(file)]);
                }
            }
        }
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            url,
            name: place.name.clone(),
            cluster,
            peer_url: own_peer,
            entrance: place.entrance.clone(),
            program: program.to_owned(),
            arguments,
            folder,
            child: None,
        }
    }

    /// A command in the place of this etcd.
    pub fn command(&self, program: &Path) -> Command {
        let mut words = self.entrance.iter().map(Path::new).chain([program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = self
            .command(&self.program)
            .args(&self.arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops all of its threads, which can answer until they really stop.
    pub fn pause(&self) {
        self.signal("-STOP");
        let begun = Instant::now();
        while !self.is_paused() {
            assert!(begun.elapsed() < Duration::from_secs(5), "etcd does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Continues after [`Self::pause`].
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.id().unwrap().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Whether each of its threads is stopped: proc_pid_stat(5), the field after the name.
    fn is_paused(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.id().unwrap())).unwrap();
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    }

    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some())
    }

    /// Replaces its data by this copy of a store, as a cluster with another token. It must not run.
    pub fn restore(&self, etcdctl: &Path, copy: &Path, token: &str) {
        assert!(self.child.is_none());
        let data = self.data();
        let remove = self.command(Path::new("rm")).arg("-rf").arg(&data).status().unwrap();
        assert!(remove.success());
        let mut command = self.command(etcdctl);
        command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(copy);
        command.args(["--name", &self.name, "--initial-cluster", &self.cluster]);
        command.args(["--initial-cluster-token", token, "--initial-advertise-peer-urls", &self.peer_url]);
        let output = command.arg("--data-dir").arg(&data).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(&self.url, &[]).unwrap()
    }

    /// A client of this endpoint alone.
    pub fn client(&self, login: Option<&Login>) -> StoreClient {
        StoreClient::new(vec![self.endpoint()], None, login, None)
    }

    /// Waits until the client gets an answer; prints etcd's log otherwise.
    pub fn wait_until_ready(&self, client: &StoreClient) {
        let any = RangeRequest::new(spa_knock_fleet::client::KeyRange::one("/spa-knock/1/prod/floor"));
        let end = Instant::now() + Duration::from_secs(30);
        while let Err(error) = client.range(&any, SLOW) {
            assert!(Instant::now() < end, "{error}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client of all of these.
pub fn client_of(members: &[Etcd], tls: &TlsIdentity, login: Option<&Login>) -> StoreClient {
    StoreClient::new(members.iter().map(Etcd::endpoint).collect(), Some(tls), login, None)
}

fn on_loopback<const N: usize>(names: [&str; N]) -> [EtcdPlace; N] {
    // All are open before the first is closed: no port is chosen twice.
    let listeners = names.map(|name| (name, [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap())));
    listeners.map(|(name, pair)| {
        let [client_port, peer_port] = pair.map(|listener| listener.local_addr().unwrap().port());
        let address = "127.0.0.1".to_owned();
        EtcdPlace { name: name.to_owned(), address, client_port, peer_port, entrance: Vec::new() }
    })
}
