//! Starts etcd on loopback, in a directory of its own, and ends it by its process id, also when a test fails.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use spa_knock_fleet::client::{Endpoint, Login, Patience, RangeRequest, StoreClient, TlsIdentity};

use super::certificates::Certificates;

pub const SLOW: Patience = Patience { each: Duration::from_secs(3), total: Duration::from_secs(30) };

/// One etcd, which can be stopped, paused and started again.
pub struct Etcd {
    pub url: String,
    program: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
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
        let [client, peer] = free_ports();
        let mut etcd = Self::new(program, folder, "one", "http", client, &[("one".to_owned(), peer)], None);
        etcd.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        etcd.start();
        etcd.wait_until_ready(&etcd.client(None));
        etcd
    }

    /// A store of three members with mutual TLS.
    pub fn three(program: &Path, folder: &Path, certificates: &Certificates) -> Vec<Self> {
        let [a, b, c, d, e, f] = free_ports();
        let peers: Vec<_> =
            [("n1", a), ("n2", b), ("n3", c)].map(|(name, port)| (name.to_owned(), port)).into();
        let mut members: Vec<_> = peers
            .iter()
            .zip([d, e, f])
            .map(|((name, _), port)| {
                Self::new(program, folder, name, "https", port, &peers, Some(certificates))
            })
            .collect();
        members.iter_mut().for_each(Self::start);
        members
    }

    fn new(
        program: &Path,
        folder: &Path,
        name: &str,
        scheme: &str,
        client_port: u16,
        peers: &[(String, u16)],
        certificates: Option<&Certificates>,
    ) -> Self {
        let url = format!("{scheme}://127.0.0.1:{client_port}");
        let peer_url = |port: u16| format!("http://127.0.0.1:{port}");
        let own_peer = peer_url(peers.iter().find(|(peer, _)| peer == name).unwrap().1);
        let cluster: Vec<_> =
            peers.iter().map(|(peer, port)| format!("{peer}={}", peer_url(*port))).collect();
        let folder = folder.join(name);
        let data = folder.join("data");
        let mut arguments: Vec<String> = [
            ("--name", name),
            ("--data-dir", data.to_str().unwrap()),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", &own_peer),
            ("--initial-advertise-peer-urls", &own_peer),
            ("--initial-cluster", &cluster.join(",")),
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
            arguments.push("--client-cert-auth".to_owned());
            for (name, file) in
                [("--trusted-ca-file", "ca.pem"), ("--cert-file", "server.pem"), ("--key-file", "server.key")]
            {
                arguments.extend([name.to_owned(), path(file)]);
            }
        }
        std::fs::create_dir_all(&folder).unwrap();
        Self { url, program: program.to_owned(), arguments, folder, child: None }
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = Command::new(&self.program)
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

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
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
            let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "{error}\n{log}");
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

fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
