//! Receives a datagram within a time.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

/// The shortest time: a timeout of zero is an error.
const SHORTEST: Duration = Duration::from_millis(1);

/// Receives one datagram, or returns an error of the kind `WouldBlock` or `TimedOut` after `time`, at least 1 ms.
///
/// # Errors
/// When none arrives in time, or the socket reports an error, such as an ICMP message.
#[cfg(unix)]
pub fn receive_within(socket: &UdpSocket, buffer: &mut [u8], time: Duration) -> io::Result<usize> {
    socket.set_read_timeout(Some(time.max(SHORTEST)))?;
    socket.recv(buffer)
}

/// The same without the receive timeout of Windows, which is at least 500 ms.
///
/// # Errors
/// When none arrives in time, or the socket reports an error, such as an ICMP message.
#[cfg(windows)]
pub fn receive_within(socket: &UdpSocket, buffer: &mut [u8], time: Duration) -> io::Result<usize> {
    use crate::os::clock;

    let end = clock::steady().plus(time);
    socket.set_nonblocking(true)?;
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && clock::steady() < end => {
                std::thread::sleep(SHORTEST);
            }
            received => return received,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_received_and_silence_ends_with_an_error() {
        let [one, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        one.connect(other.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 8];
        for time in [Duration::ZERO, Duration::from_millis(20)] {
            let error = receive_within(&one, &mut buffer, time).unwrap_err();
            assert!(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{error}");
        }
        other.send_to(b"hello", one.local_addr().unwrap()).unwrap();
        assert_eq!(receive_within(&one, &mut buffer, Duration::from_secs(10)).unwrap(), 5);
    }
}
