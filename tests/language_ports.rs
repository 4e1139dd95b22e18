//! The clients in other languages agree with the protocol's vectors, and are short enough to be read before they are
//! embedded.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests start programs and panic on failure"
)]

mod language;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use language::{Language, path, run};
use spa_knock_core::crypto::{KeyFile, KeyOwner, PairSecret, Secret, random};
use spa_knock_core::knock::{AddressPolicy, Reply, ReplyStatus, ReplyText, Timestamp};
use spa_knock_core::wire::{Envelope, seal_reply};
use tempfile::TempDir;

/// The most lines of a file that programs embed.
const LINES: usize = 299;

#[test]
fn every_library_file_is_short_and_names_its_license() {
    for file in Language::ALL.iter().flat_map(|language| language.library()) {
        let text = std::fs::read_to_string(path(file)).unwrap();
        let lines = text.lines().count();
        assert!(lines <= LINES, "{file}: {lines} lines; at most {LINES}");
        assert!(text.contains("SPDX-License-Identifier: MIT OR Apache-2.0"), "{file}: states no license");
    }
}

#[test]
fn the_python_client_agrees_with_the_vectors() {
    check(Language::Python);
}

#[test]
fn the_javascript_client_agrees_with_the_vectors() {
    check(Language::JavaScript);
}

#[test]
fn the_go_client_agrees_with_the_vectors() {
    check(Language::Go);
}

#[test]
fn the_java_client_agrees_with_the_vectors() {
    check(Language::Java);
}

fn check(language: Language) {
    if !language.is_tested() {
        return;
    }
    let printed: Vec<String> = language.checks().iter().map(|words| run(words)).collect();
    let last = printed.last().unwrap();
    assert!(last.contains("24 vectors, 10000 changed replies") || language == Language::Go, "{last}");
    println!("{last}");
}

#[test]
fn a_resend_is_the_same_datagram_and_only_a_reply_to_the_knock_is_believed() {
    for server in servers() {
        let (client, first) = server.knock();
        let from = first.1;
        for copy in 0..2 {
            assert_eq!(server.receive(), first, "{:?}: resend {copy} differs", server.language);
        }
        let good = server.reply(&first.0, ReplyStatus::Granted, "203.0.113.9");
        let mut altered = good.clone();
        altered[40] ^= 1;
        let other = Server::new(server.language);
        let mut of_another_knock = first.0.clone();
        of_another_knock[8] ^= 1;
        for wrong in [
            Vec::new(),
            b"hello".to_vec(),
            first.0.clone(),
            altered,
            [good.as_slice(), &[0]].concat(),
            good[..123].to_vec(),
            other.reply(&first.0, ReplyStatus::Granted, "192.0.2.66"),
            server.reply(&of_another_knock, ReplyStatus::Granted, "192.0.2.66"),
            good,
        ] {
            server.socket.send_to(&wrong, from).unwrap();
        }
        let (code, text) = end(client);
        assert_eq!(code, Some(0), "{:?}: {text}", server.language);
        assert!(text.contains("granted to 203.0.113.9 for 30s"), "{:?}: {text}", server.language);
    }
}

#[test]
fn a_second_knock_names_the_address_that_the_server_saw_and_there_is_no_third() {
    for (server, status) in servers().flat_map(|server| {
        let again = Server::new(server.language);
        [(server, ReplyStatus::Granted), (again, ReplyStatus::AddressRefused)]
    }) {
        let (client, (first, from)) = server.knock();
        assert_eq!(server.claim(&first), (AddressPolicy::Exact, "127.0.0.1".parse().unwrap()));
        let refusal = server.reply(&first, ReplyStatus::AddressRefused, "203.0.113.9");
        // The same reply twice contradicts nothing.
        server.socket.send_to(&refusal, from).unwrap();
        server.socket.send_to(&refusal, from).unwrap();
        let second = loop {
            let (datagram, _) = server.receive();
            if datagram != first {
                break datagram;
            }
        };
        assert_ne!(first[8..20], second[8..20], "{:?}: a knock needs a nonce of its own", server.language);
        assert_eq!(server.claim(&second), (AddressPolicy::Exact, "203.0.113.9".parse().unwrap()));
        server.socket.send_to(&server.reply(&second, status, "198.51.100.7"), from).unwrap();
        let (code, text) = end(client);
        let refused = status == ReplyStatus::AddressRefused;
        assert_eq!(code, Some(i32::from(refused)), "{:?}: {text}", server.language);
        assert!(
            !refused || text.contains("open-ssh refused: address refused"),
            "{:?}: {text}",
            server.language
        );
        server.socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        while let Ok((datagram, _)) = server.try_receive() {
            assert_eq!(datagram, second, "{:?}: a third knock", server.language);
        }
    }
}

#[test]
fn replies_that_contradict_each_other_end_the_knock() {
    for server in servers() {
        let (client, (first, from)) = server.knock();
        for seen in ["203.0.113.9", "198.51.100.7"] {
            let reply = server.reply(&first, ReplyStatus::AddressRefused, seen);
            server.socket.send_to(&reply, from).unwrap();
        }
        let (code, text) = end(client);
        assert_eq!(code, Some(1), "{:?}: {text}", server.language);
        assert!(text.contains("two replies name different addresses"), "{:?}: {text}", server.language);
    }
}

#[test]
fn every_example_of_the_readme_is_granted() {
    let readme = std::fs::read_to_string(path("README.md")).unwrap();
    for server in servers() {
        let (name, file) = match server.language {
            Language::Python => ("python", "example.py"),
            Language::JavaScript => ("js", "example.mjs"),
            Language::Go => ("go", "example.go"),
            Language::Java => ("java", "Example.java"),
        };
        let block = readme.split(&format!("```{name}\n")).nth(1).unwrap().split("```").next().unwrap();
        assert!(block.contains("bastion.example.org") && block.contains("laptop.key"));
        let folder = server.folder.path();
        let key = server.write_key().display().to_string();
        let example = block.replace("bastion.example.org", "127.0.0.1").replace("laptop.key", &key);
        std::fs::write(folder.join(file), example).unwrap();
        for library in server.language.library() {
            let copy = folder.join(library.rsplit('/').next().unwrap());
            std::fs::copy(path(library), copy).unwrap();
        }
        let client =
            server.language.example(&folder.join(file)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let (first, from) = server.receive();
        let reply = server.reply(&first, ReplyStatus::Granted, "203.0.113.9");
        server.socket.send_to(&reply, from).unwrap();
        let (code, text) = end(client.unwrap());
        assert_eq!((code, text.as_str()), (Some(0), "203.0.113.9 30\n"), "{:?}", server.language);
    }
}

/// A server on the loopback interface, played by the test, and a key for it.
struct Server {
    language: Language,
    socket: UdpSocket,
    secret: PairSecret,
    folder: TempDir,
}

fn servers() -> impl Iterator<Item = Server> {
    Language::ALL.into_iter().filter(|language| language.is_tested()).map(Server::new)
}

impl Server {
    fn new(language: Language) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let secret = PairSecret::new(Secret::generate().unwrap());
        Self { language, socket, secret, folder: tempfile::tempdir().unwrap() }
    }

    /// Writes a key file for this server.
    fn write_key(&self) -> PathBuf {
        let key = KeyFile {
            client: None,
            holder: KeyOwner::Pair { server: "a".parse().unwrap(), secret: self.secret.clone() },
            address: None,
            port: Some(self.socket.local_addr().unwrap().port()),
            ssh_key: None,
        };
        let path = self.folder.path().join("a.key");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&path).unwrap();
        file.write_all(key.to_text().as_bytes()).unwrap();
        path
    }

    /// Starts the client, and receives its first datagram.
    fn knock(&self) -> (Child, (Vec<u8>, SocketAddr)) {
        let path = self.write_key();
        let words = self.language.client();
        let (program, args) = words.split_first().unwrap();
        let client = Command::new(program)
            .args(args)
            .arg("--key")
            .arg(&path)
            .args(["127.0.0.1", "open-ssh"])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (client, self.receive())
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        self.try_receive().unwrap_or_else(|error| panic!("{:?}: no datagram: {error}", self.language))
    }

    fn try_receive(&self) -> std::io::Result<(Vec<u8>, SocketAddr)> {
        let mut bytes = vec![0; 512];
        let (length, from) = self.socket.recv_from(&mut bytes)?;
        bytes.truncate(length);
        Ok((bytes, from))
    }

    /// The policy of a knock, and the address in it.
    fn claim(&self, datagram: &[u8]) -> (AddressPolicy, IpAddr) {
        let envelope = Envelope::read(datagram).unwrap();
        let body = envelope.open(&self.secret.keys(&"a".parse().unwrap()).keeper()).ok().unwrap();
        let knock = body.understand().unwrap();
        assert_eq!(knock.ipv6, None);
        (knock.policy, knock.ipv4.unwrap().into())
    }

    fn reply(&self, datagram: &[u8], status: ReplyStatus, observed: &str) -> Vec<u8> {
        let reply = Reply {
            status,
            server_time: Timestamp::from_millis(1),
            observed: observed.parse().unwrap(),
            port: 1,
            seconds: 30,
            text: ReplyText::fitting(""),
        };
        let key = self.secret.keys(&"a".parse().unwrap()).keeper().reply;
        seal_reply(&reply, &key, Envelope::read(datagram).unwrap().nonce, &random().unwrap()).unwrap()
    }
}

/// The client's exit code and what it printed.
fn end(client: Child) -> (Option<i32>, String) {
    let output = client.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}
