//! A scripted server on the loopback interface, for tests that run the client as a process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::indexing_slicing, reason = "tests")]

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use spa_knock::os::clock;
use spa_knock_core::crypto::{KeyFile, KeyOwner, random};
use spa_knock_core::knock::{Reply, ReplyStatus, ReplyText};
use spa_knock_core::wire::{Envelope, seal_reply};

/// The client's root key, which the server knows.
pub(crate) const KEY: &str =
    "spa-knock-key: 1\nkind: root\nsecret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Replies to one knock at the server `bastion` with this status; its clock is ahead by `clock_ahead`.
pub(crate) fn server(status: ReplyStatus, clock_ahead: Duration) -> (u16, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let mut bytes = [0; 512];
        let (length, from) = loop {
            // Suspending the machine interrupts a receive call that has a timeout.
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
    (port, served)
}

/// The output of a process as text.
pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
