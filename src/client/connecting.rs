//! `connect`: a knock, then a TCP connection in its place, for programs that let another one make theirs.

use std::net::SocketAddr;

use super::carry_out;
use super::cli::Connecting;
use super::failure::Failure;
use super::intent::Intent;
use super::relay;
use super::report::Report;
use super::route::resolve;
use super::wait;

/// Knocks, connects, and joins standard input and output to the connection.
pub(super) fn connect(said: Connecting) -> Result<(), Failure> {
    let report = Report::of(&said.manner);
    let (host, port) = (said.host.clone(), said.door);
    let intent = Intent::to_connect(said)?;
    // Ahead of the knock: a door that opens for a name that leads nowhere is open for nothing.
    let mut doors = resolve(&host, port, intent.family, None)?;
    let knocked = carry_out(&intent, &report)?;
    // The person is about to use what opens; only what goes wrong is worth a word.
    report.detail(|| knocked.text.clone());
    doors.sort_by_key(|door| rank(door, knocked.server));
    let stream = wait::for_connection(&doors, intent.timeout, &report)?;
    relay::join(&stream)
}

/// The address that was knocked at comes first, then those of its family: the door is open for an address of it.
fn rank(door: &SocketAddr, knocked: SocketAddr) -> u8 {
    match (door.ip() == knocked.ip(), door.is_ipv4() == knocked.is_ipv4()) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}
