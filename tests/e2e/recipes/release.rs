//! A release directory like the one that a project publishes, served over HTTP on loopback, intact or damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use crate::net::Namespace;

/// The version of the released client.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the server does with a request for one file.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    /// There is no such file.
    Missing,
    /// The connection ends after half of the announced bytes.
    Truncated,
    /// The same for the next request alone.
    TruncatedOnce,
    /// The same, without an announced length, so that only the checksum shows it.
    SilentlyTruncated,
    /// One byte differs.
    Changed,
    /// The first request fails as on a server under load, the second is truncated, and the others succeed.
    Recovering,
}

/// The files of a release.
#[derive(Clone)]
pub(crate) struct Release(BTreeMap<String, Vec<u8>>);

impl Release {
    /// The client of this test for this machine.
    pub(crate) fn of_this_client() -> Self {
        static PACKED: OnceLock<Release> = OnceLock::new();
        let pack = || {
            let folder = tempfile::tempdir().unwrap();
            let program = folder.path().join("spa-knock");
            let strip =
                Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_spa-knock")).status();
            assert!(strip.unwrap().success());
            Self(BTreeMap::new()).with(&own_target(), &fs::read(program).unwrap())
        };
        PACKED.get_or_init(pack).clone()
    }

    /// The same with one more archive, for `target`, that contains this program.
    pub(crate) fn with(mut self, target: &str, program: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("spa-knock-{VERSION}-{target}");
        let inside = folder.path().join(&name);
        fs::create_dir(&inside).unwrap();
        fs::write(inside.join("spa-knock"), program).unwrap();
        fs::write(inside.join("README.md"), "The client.\n").unwrap();
        let archive = format!("{name}.tar.gz");
        let mut tar = Command::new("tar");
        tar.args(["-I", "gzip -1", "-cf", &archive, &name]).current_dir(folder.path());
        assert!(tar.status().unwrap().success());
        self.0.insert(archive.clone(), fs::read(folder.path().join(archive)).unwrap());
        self.list()
    }

    /// The same without the archive of this machine.
    pub(crate) fn without_own_archive(mut self) -> Self {
        self.0.remove(&own_archive());
        self.list()
    }

    /// Writes `SHA256SUMS` again.
    fn list(mut self) -> Self {
        self.0.remove("SHA256SUMS");
        let sums: String =
            self.0.iter().map(|(name, bytes)| format!("{}  {name}\n", sha256(bytes))).collect();
        self.0.insert("SHA256SUMS".to_owned(), sums.into_bytes());
        self
    }

    /// The SHA-256 of `SHA256SUMS`.
    pub(crate) fn pin(&self) -> String {
        sha256(&self.0["SHA256SUMS"])
    }

    /// Serves the files on loopback in a namespace, as long as the test runs. Returns the URL of the directory.
    pub(crate) fn serve(self, namespace: &Namespace, fault: Option<(&str, Fault)>) -> String {
        let listener = namespace.enter(|| TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/spa-knock/{VERSION}", listener.local_addr().unwrap());
        let fault = Arc::new(Mutex::new(fault.map(|(name, fault)| (name.to_owned(), fault))));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // An error means that the client has closed the connection.
                let _ = self.respond(&stream, &mut fault.lock().unwrap());
            }
        });
        url
    }

    fn respond(&self, mut stream: &TcpStream, fault: &mut Option<(String, Fault)>) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        // The request must be read to its end, or the kernel resets the connection.
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or_default();
        let name = path.strip_prefix(&format!("/spa-knock/{VERSION}/")).unwrap_or_default();
        let now = fault.as_ref().filter(|(of, _)| of == name).map(|(_, fault)| *fault);
        if matches!(now, Some(Fault::Recovering)) {
            *fault = Some((name.to_owned(), Fault::TruncatedOnce));
            return stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        if matches!(now, Some(Fault::TruncatedOnce)) {
            *fault = None;
        }
        let Some(bytes) = self.0.get(name).filter(|_| !matches!(now, Some(Fault::Missing))) else {
            return stream.write_all(
                b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnone\n",
            );
        };
        let mut bytes = bytes.clone();
        if matches!(now, Some(Fault::Changed)) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        let length = match now {
            Some(Fault::SilentlyTruncated) => String::new(),
            _ => format!("Content-Length: {}\r\n", bytes.len()),
        };
        if matches!(now, Some(Fault::Truncated | Fault::TruncatedOnce | Fault::SilentlyTruncated)) {
            bytes.truncate(bytes.len() / 2);
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n").as_bytes())?;
        stream.write_all(&bytes)
    }
}

/// The target of this machine's released client.
pub(crate) fn own_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// The archive of this machine's released client.
pub(crate) fn own_archive() -> String {
    format!("spa-knock-{VERSION}-{}.tar.gz", own_target())
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let printed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    printed.split(' ').next().unwrap().to_owned()
}

/// Whether a program called `spa-knock` is anywhere below a folder.
pub(crate) fn is_installed_below(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() { is_installed_below(&path) } else { path.file_name().unwrap() == "spa-knock" }
    })
}
