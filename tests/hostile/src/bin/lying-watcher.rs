//! A compromised watcher for fwknop's packets that lies to its keeper. It reads what it reports from the file `lies`
//! beside its program, which `tests/e2e/fwknop_watcher.rs` writes.
#![allow(clippy::disallowed_methods, reason = "reads a file, which a watcher does not")]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use spa_knock::os::net::seqpacket::{Channel, ReceiveResult};
use spa_knock_core::crypto::random;
use spa_knock_fwknop::{CipherKey, Digest, HmacKey};

/// The first byte of messages, from `src/ipc/shell.rs` and `src/legacy/fwknop/ipc.rs`.
const VERSION: u8 = 1;
const WATCHING: u8 = 2;
const GO: u8 = 4;
const PACKET: u8 = 16;
const KEY: u8 = 17;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> io::Result<()> {
    let channel = Channel::from_stdin()?;
    let lies = std::fs::read_to_string(std::env::current_exe()?.with_file_name("lies"))?;
    let (version, lies) = lies.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
    let length = u16::try_from(version.len()).map_err(io::Error::other)?;
    channel.send(&[&[VERSION], length.to_be_bytes().as_slice(), version.as_bytes()].concat())?;
    let mut keys = Vec::new();
    let mut buffer = [0; 512];
    while let ReceiveResult::Message(length) = channel.recv(&mut buffer)? {
        match &buffer[..length] {
            [KEY, digest, key @ ..] => keys.push(HmacKey::new(Digest::ALL[usize::from(*digest)], key)),
            [GO, ..] => {
                channel.send(&[WATCHING])?;
                for lie in lies.lines() {
                    report(&channel, &keys, lie)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// `text SOURCE TEXT`: a packet with this text. `sealed SOURCE COUNT`: packets that its own keys authenticate. `bytes
/// COUNT`: messages that there are not.
fn report(channel: &Channel, keys: &[HmacKey], lie: &str) -> io::Result<()> {
    let mut words = lie.split(' ');
    let (kind, source) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let argument = words.next().unwrap_or_default();
    match kind {
        "text" => channel.send(&packet(source, argument)),
        "sealed" => {
            let cipher = CipherKey::new(b"not the key").map_err(io::Error::other)?;
            for _ in 0..argument.parse().map_err(io::Error::other)? {
                let plain = "1234567890123456:YWxpY2U:1700000000:3.0.0:1:MTI3LjAuMC4yLHRjcC8yMg:x";
                let salt = random().map_err(|_| io::ErrorKind::Other)?;
                channel.send(&packet(source, &cipher.seal(plain, &salt, &keys[0])))?;
            }
            Ok(())
        }
        _ => channel.send(&[u8::MAX; 40]),
    }
}

fn packet(source: &str, text: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let destination = mapped(IpAddr::from([10, 77, 0, 1]));
    [&[PACKET], &mapped(source.ip())[..], &source.port().to_be_bytes(), &destination, text.as_bytes()]
        .concat()
}
