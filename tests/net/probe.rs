//! Probes of ports: which are open, for how long, and which replies arrive.

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

/// Time limit for a connection. A dropped SYN is sent again after 1 s, so this is a single attempt.
const CONNECT: Duration = Duration::from_millis(400);
/// Time limit for a reply; on a cable it takes less than a millisecond.
const REPLY: Duration = Duration::from_millis(700);

/// How long a port may stay open after the end of its grant.
pub(crate) const LATE: Duration = Duration::from_secs(1);
/// How much too early a port may appear closed, because of different clocks and the scheduler.
const EARLY: Duration = Duration::from_millis(100);

/// The attempt to connect that found a port closed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FailedConnect {
    pub(crate) began: Instant,
    /// When its packet was sent at the latest. On a busy machine, that can be long after it began.
    sent: Instant,
}

/// Asserts that a port whose knock was sent and granted at these times was `closed` after this number of seconds.
pub(crate) fn assert_on_time((sent, granted): (Instant, Instant), closed: FailedConnect, seconds: u64) {
    let seconds = Duration::from_secs(seconds);
    assert!(closed.sent + EARLY >= sent + seconds, "closed after {:?}", closed.sent - sent);
    assert!(closed.began <= granted + seconds + LATE, "closed after {:?}", closed.began - granted);
}

/// A listener on this port. A socket that a test has closed is open until each process that another test has just started
/// runs its program.
fn listener_on(port: u16) -> TcpListener {
    let start = Instant::now();
    loop {
        match TcpListener::bind(("::", port)) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && start.elapsed() < Duration::from_secs(5) =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            listener => return listener.unwrap(),
        }
    }
}

impl Namespace {
    /// Echoes everything that arrives on this TCP port, over IPv4 and IPv6, as long as the test runs.
    pub(crate) fn echo(&self, port: u16) {
        let listener = self.enter(|| listener_on(port));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut writer = stream.try_clone().unwrap();
                    // An error means that the peer has closed the connection, which ends the echo.
                    let _ = std::io::copy(&mut &stream, &mut writer);
                });
            }
        });
    }

    /// Starts an echo unless one already runs on this port.
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

    /// Whether the port accepts a connection from `own`, one of several addresses of this namespace.
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

    /// Whether a process in the namespace can connect to a port of its own at this address.
    pub(crate) fn reaches_itself(&self, address: IpAddr, port: u16) -> bool {
        self.connect_within(address, port, Duration::from_millis(100)).is_some()
    }

    /// Whether the port accepts a connection.
    pub(crate) fn reaches(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port).is_some()
    }

    /// Waits until the port does not accept a connection, and returns this attempt. Panics after 20 s.
    pub(crate) fn wait_until_closed(&self, address: IpAddr, port: u16) -> FailedConnect {
        let start = Instant::now();
        loop {
            let began = Instant::now();
            if !self.reaches(address, port) {
                return FailedConnect { began, sent: began.max(Instant::now() - CONNECT) };
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{address} port {port} stays open");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// A UDP socket bound to this address, on a port that the kernel chooses.
    pub(crate) fn udp(&self, local: IpAddr) -> UdpSocket {
        let socket = self.enter(|| UdpSocket::bind((local, 0))).unwrap();
        socket.set_read_timeout(Some(REPLY)).unwrap();
        socket
    }
}

/// Sends a datagram to the knock port and waits for a reply.
pub(crate) fn ask(socket: &UdpSocket, server: IpAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    socket.send_to(datagram, (server, KNOCK_PORT)).unwrap();
    let mut reply = [0; 2048];
    let (length, from) = loop {
        match socket.recv_from(&mut reply) {
            // If the machine is frozen and thawed, a receive call with a timeout is interrupted.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.ok()?,
        }
    };
    assert_eq!(
        from,
        SocketAddr::new(server, KNOCK_PORT),
        "the reply comes from the address that was knocked at"
    );
    Some(reply[..length].to_vec())
}

/// Like `ask`, but resends the datagram as often as the client program does.
pub(crate) fn ask_patiently(socket: &UdpSocket, server: IpAddr, datagram: &[u8]) -> Option<Vec<u8>> {
    (0..4).find_map(|_| ask(socket, server, datagram))
}

/// Whether a connection to an echo still works.
pub(crate) fn still_echoes(stream: &mut TcpStream) -> bool {
    let mut echo = [0; 5];
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.write_all(b"alive").is_ok() && stream.read_exact(&mut echo).is_ok() && echo == *b"alive"
}
