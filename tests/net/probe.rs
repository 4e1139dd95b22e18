//! Knocking at doors: what answers, how long, and what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{KNOCK_PORT, Namespace};

/// How long a connection may take. A dropped SYN is sent again after 1 s, so this is one try.
const CONNECT: Duration = Duration::from_millis(400);
/// How long an answer may take; on a cable it needs less than a millisecond.
const ANSWER: Duration = Duration::from_millis(700);

/// What closing a port may take beyond the seconds granted.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// What two clocks and a scheduler may differ in.
const EARLY: Duration = Duration::from_millis(100);

/// That a port that was asked for and granted at these times was `closed` after so many seconds.
pub(crate) fn assert_on_time((asked, granted): (Instant, Instant), closed: Instant, seconds: u64) {
    let seconds = Duration::from_secs(seconds);
    assert!(closed + EARLY >= asked + seconds, "closed after {:?}", closed - asked);
    assert!(closed <= granted + seconds + LATE, "closed after {:?}", closed - granted);
}

impl Namespace {
    /// Sends back what arrives on this TCP port, in both families, as long as the test runs.
    pub(crate) fn echo(&self, port: u16) {
        let listener = self.enter(|| TcpListener::bind(("::", port))).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    // Whoever is there has gone; that ends the echo.
                    let _ = std::io::copy(&mut &stream, &mut writer);
                });
            }
        });
    }

    /// The same where another one may be there already.
    pub(crate) fn echo_once(&self, port: u16) {
        if !self.reaches_itself(IpAddr::from([127, 0, 0, 1]), port) {
            self.echo(port);
        }
    }

    /// A connection, if the port accepts.
    pub(crate) fn connect(&self, address: IpAddr, port: u16) -> Option<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT)).ok()
    }

    /// A connection, if the port accepts within this time.
    pub(crate) fn connect_within(&self, address: IpAddr, port: u16, time: Duration) -> Option<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), time)).ok()
    }

    /// Whether the port accepts a connection from one of several own addresses.
    pub(crate) fn reaches_from(&self, own: IpAddr, address: IpAddr, port: u16) -> bool {
        self.enter(|| {
            let family = if own.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let stream = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
            let limit = TimeVal::milliseconds(CONNECT.as_millis().try_into().unwrap());
            setsockopt(&stream, SendTimeout, &limit).unwrap();
            bind(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(own, 0))).unwrap();
            connect(stream.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, port))).is_ok()
        })
    }

    /// Whether the namespace reaches a port of its own, by an address that is not the loopback's.
    pub(crate) fn reaches_itself(&self, address: IpAddr, port: u16) -> bool {
        self.connect_within(address, port, Duration::from_millis(100)).is_some()
    }

    /// Whether the port accepts.
    pub(crate) fn reaches(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port).is_some()
    }

    /// When the first connection was begun that the port did not accept; fails after 20 s.
    pub(crate) fn closing(&self, address: IpAddr, port: u16) -> Instant {
        let start = Instant::now();
        loop {
            let begun = Instant::now();
            if !self.reaches(address, port) {
                return begun;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{address} port {port} stays open");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A UDP socket of this address, on a port of the kernel's choice.
    pub(crate) fn udp(&self, local: IpAddr) -> UdpSocket {
        let socket = self.enter(|| UdpSocket::bind((local, 0))).unwrap();
        socket.set_read_timeout(Some(ANSWER)).unwrap();
        socket
    }
}

/// Sends a datagram to the knock port and waits for an answer.
pub(crate) fn ask(socket: &UdpSocket, server: IpAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    socket.send_to(datagram, (server, KNOCK_PORT)).unwrap();
    let mut answer = [0; 2048];
    let (length, from) = loop {
        match socket.recv_from(&mut answer) {
            // A frozen and thawed machine interrupts receiving with a time limit.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.ok()?,
        }
    };
    assert_eq!(from, SocketAddr::new(server, KNOCK_PORT), "an answer comes from where the knock went");
    Some(answer[..length].to_vec())
}

/// The same, sent again as often as a client does.
pub(crate) fn ask_patiently(socket: &UdpSocket, server: IpAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    (0..4).find_map(|_| ask(socket, server, datagram))
}

/// Whether an echo still answers.
pub(crate) fn converse(stream: &mut TcpStream) -> bool {
    let mut heard = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"alive").is_ok() && stream.read_exact(&mut heard).is_ok() && heard == *b"alive"
}
