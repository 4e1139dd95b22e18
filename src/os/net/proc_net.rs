//! Lists established TCP connections and listening services from /proc (proc(5), net/tcp). IPv4-mapped addresses count
//! as IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::os::files::{self, FileError};
use spa_knock_core::knock::Protocol;

/// States of a socket, from the kernel's tcp_states.h.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";
/// The state of a UDP socket that accepts datagrams from anyone (TCP_CLOSE).
const UNCONNECTED: &str = "07";

/// One established connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpConnection {
    /// Our end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

/// All established TCP connections of this network namespace.
///
/// # Errors
/// When /proc cannot be read; a missing file means that this IP version is off.
pub fn established() -> Result<Vec<TcpConnection>, FileError> {
    let mut connections = Vec::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        each_line(path, |line| connections.extend(parse(line)))?;
    }
    Ok(connections)
}

/// The addresses on which services of this network namespace wait for connections (TCP) or datagrams (UDP).
///
/// # Errors
/// When /proc cannot be read; a missing file means that this IP version is off.
pub fn listening() -> Result<Vec<(Protocol, SocketAddr)>, FileError> {
    let mut addresses = Vec::new();
    for (path, protocol, state) in [
        ("/proc/self/net/tcp", Protocol::Tcp, LISTEN),
        ("/proc/self/net/tcp6", Protocol::Tcp, LISTEN),
        ("/proc/self/net/udp", Protocol::Udp, UNCONNECTED),
        ("/proc/self/net/udp6", Protocol::Udp, UNCONNECTED),
    ] {
        each_line(path, |line| addresses.extend(socket(line, state).map(|socket| (protocol, socket.local))))?;
    }
    Ok(addresses)
}

/// Calls `each` for every line of a table. The table of an IP version that is off is empty.
fn each_line(path: &str, each: impl FnMut(&str)) -> Result<(), FileError> {
    match files::read_lines(Path::new(path), each) {
        Err(error) if !error.missing => Err(error),
        _ => Ok(()),
    }
}

fn parse(line: &str) -> Option<TcpConnection> {
    socket(line, ESTABLISHED)
}

/// Parses `  sl  local_address rem_address   st …`. Addresses are words in host byte order.
fn socket(line: &str, state: &str) -> Option<TcpConnection> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let connection = TcpConnection { local: address(columns.next()?)?, remote: address(columns.next()?)? };
    (columns.next()? == state).then_some(connection)
}

fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at.checked_add(8)?)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(spa_knock_core::knock::canonical(ip), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_connection_is_listed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let expected =
            TcpConnection { local: listener.local_addr().unwrap(), remote: client.local_addr().unwrap() };
        assert!(established().unwrap().contains(&expected));
    }

    #[test]
    fn listening_sockets_are_listed() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listening = listening().unwrap();
        assert!(listening.contains(&(Protocol::Tcp, tcp.local_addr().unwrap())));
        assert!(listening.contains(&(Protocol::Udp, udp.local_addr().unwrap())));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_proc_are_parsed() {
        let line = "   1: 0100007F:0016 0200A8C0:C350 01 00000000:00000000 00:00000000 00000000     0";
        let connection = parse(line).unwrap();
        assert_eq!(connection.local.to_string(), "127.0.0.1:22");
        assert_eq!(connection.remote.to_string(), "192.168.0.2:50000");
        assert_eq!(parse(&line.replace(" 01 ", " 0A ")), None, "listening");
        let mapped = "0: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000100007F:C350 01 x";
        assert_eq!(parse(mapped).unwrap().local.to_string(), "127.0.0.1:22");
        for broken in ["", "sl local_address rem_address st", "0: xyz:1 0:0 01", "0: 01:1 02:2 01"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
