//! A server on the loopback that answers as it is told, for the client as a process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::indexing_slicing, reason = "tests")]

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use spa_knock::os::clock;
use spa_knock_core::crypto::{KeyFile, KeyOwner, random};
use spa_knock_core::knock::{Reply, ReplyStatus, ReplyText};
use spa_knock_core::wire::{Envelope, seal_reply};

/// Whom the server knows.
pub(crate) const KEY: &str =
    "spa-knock-key: 1\nkind: root\nsecret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Answers one knock at the server `bastion`; what it does with its clock is up to the caller.
pub(crate) fn server(status: ReplyStatus, clock_ahead: Duration) -> (u16, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let answered = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (length, from) = loop {
            // A frozen and thawed machine interrupts receiving with a time limit.
            match socket.recv_from(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        let KeyOwner::Root(root) = KeyFile::parse(KEY).ok().unwrap().holder else { return };
        let id = "bastion".parse().unwrap();
        let keys = root.pair(&id).keys(&id).keeper();
        let envelope = Envelope::read(&bytes[..length]).unwrap();
        assert!(envelope.open(&keys).unwrap().understand().is_ok());
        let reply = Reply {
            status,
            server_time: clock::wall().plus(clock_ahead),
            observed: from.ip(),
            port: from.port(),
            seconds: if status == ReplyStatus::Granted { 30 } else { 0 },
            text: ReplyText::fitting("hello"),
        };
        let sealed = seal_reply(&reply, &keys.reply, envelope.nonce, &random().unwrap()).unwrap();
        socket.send_to(&sealed, from).unwrap();
    });
    (port, answered)
}

/// What a process has said.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
