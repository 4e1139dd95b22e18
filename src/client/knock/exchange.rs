//! Sends knocks and receives replies: each knock is resent as the identical datagram until there is a reply. Only
//! datagrams that decrypt under the key are replies; everything else, including ICMP, is ignored.

use std::io::{self, ErrorKind};
use std::iter::Peekable;
use std::net::UdpSocket;
use std::thread::sleep;
use std::time::Duration;

use super::route;
use crate::os::clock;
use crate::os::net::timed_receive::receive_within;
use spa_knock_core::crypto::ReplyKey;
use spa_knock_core::knock::{Reply, Steady, Timestamp};
use spa_knock_core::wire::{Datagram, REPLY_LEN, open_reply};

/// When a knock without a reply is resent, counted from the first time.
const RESENDS: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(750), Duration::from_millis(1750)];
/// Pause after a socket error, so that a persistent error does not cause a busy loop.
const REST: Duration = Duration::from_millis(1);

/// How often a knock without a reply has been sent this long after the first time.
pub(in crate::client) fn times_sent_within(time: Duration) -> usize {
    RESENDS.iter().filter(|after| **after <= time).count().saturating_add(1)
}

/// "once", "twice" or "3 times".
pub(in crate::client) fn times(number: usize) -> String {
    match number {
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        number => format!("{number} times"),
    }
}

/// Whether a knock is resent while there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::client) enum Resend {
    /// According to the schedule.
    Yes,
    /// Never: only listen.
    No,
}

/// Knocks sent through one socket, and the replies to them.
pub(in crate::client) struct Exchange<'a> {
    socket: &'a UdpSocket,
    key: &'a ReplyKey,
    sent: Vec<SentKnock>,
}

/// A reply that decrypted under the key.
#[derive(Debug)]
pub(in crate::client) struct ReceivedReply {
    /// The number of the knock that it answers, from 0.
    pub(in crate::client) knock: usize,
    /// Its content.
    pub(in crate::client) reply: Reply,
    /// Time since the knock was sent first.
    pub(in crate::client) round_trip: Duration,
    /// Local time of arrival.
    pub(in crate::client) at: Timestamp,
}

struct SentKnock {
    datagram: Datagram,
    first: Steady,
    resends: Peekable<std::array::IntoIter<Duration, 3>>,
}

impl<'a> Exchange<'a> {
    /// Creates an exchange through a connected socket; replies are encrypted under `key`.
    pub(in crate::client) const fn new(socket: &'a UdpSocket, key: &'a ReplyKey) -> Self {
        Self { socket, key, sent: Vec::new() }
    }

    /// Sends a knock for the first time.
    pub(in crate::client) fn send(&mut self, datagram: Datagram) -> io::Result<()> {
        route::put(self.socket, datagram.as_bytes())?;
        self.sent.push(SentKnock {
            datagram,
            first: clock::steady(),
            resends: RESENDS.into_iter().peekable(),
        });
        Ok(())
    }

    /// Waits for the next reply to any of the knocks, until `end`; resends the latest knock in the meantime.
    pub(in crate::client) fn receive(&mut self, end: Steady, resend: Resend) -> Option<ReceivedReply> {
        loop {
            let now = clock::steady();
            if now >= end {
                return None;
            }
            let again =
                self.sent.last_mut().filter(|_| resend == Resend::Yes).and_then(SentKnock::next_resend);
            if again.is_some_and(|again| now >= again) {
                self.send_again();
                continue;
            }
            let until = again.map_or(end, |again| again.min(end));
            if let Some(received) = self.receive_once(until.since(now)) {
                return Some(received);
            }
        }
    }

    /// Sends a copy of a knock, counted from 0, outside of the schedule. Errors are ignored, like packet loss.
    pub(in crate::client) fn send_copy(&self, knock: usize) {
        if let Some(sent) = self.sent.get(knock) {
            let _ = route::put(self.socket, sent.datagram.as_bytes());
        }
    }

    /// How long ago a knock, counted from 0, was sent for the first time.
    pub(in crate::client) fn age(&self, knock: usize) -> Duration {
        self.sent.get(knock).map_or(Duration::ZERO, |sent| clock::steady().since(sent.first))
    }

    /// Keeps a NAT mapping alive with a datagram of one byte, which every server drops because of its length.
    pub(in crate::client) fn keep_alive(&self) {
        let _ = self.socket.send(&[0]);
    }

    /// How often the latest knock has been sent.
    pub(in crate::client) fn times_sent(&self) -> usize {
        let left = self.sent.last().map_or(0, |latest| latest.resends.len());
        RESENDS.len().saturating_add(1).saturating_sub(left)
    }

    fn send_again(&mut self) {
        if let Some(latest) = self.sent.last_mut() {
            latest.resends.next();
            // Errors are ignored, like packet loss.
            let _ = route::put(self.socket, latest.datagram.as_bytes());
        }
    }

    fn receive_once(&self, time: Duration) -> Option<ReceivedReply> {
        // One byte more, so that a longer datagram is not mistaken for a reply.
        let mut bytes = [0; REPLY_LEN + 1];
        match receive_within(self.socket, &mut bytes, time) {
            Ok(length) => self.open(bytes.get(..length)?),
            Err(error) => {
                if !matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) {
                    sleep(REST);
                }
                None
            }
        }
    }

    fn open(&self, bytes: &[u8]) -> Option<ReceivedReply> {
        let at = clock::wall();
        self.sent.iter().enumerate().find_map(|(knock, sent)| {
            let reply = open_reply(bytes, self.key, sent.datagram.nonce()).ok()?;
            let round_trip = clock::steady().since(sent.first);
            Some(ReceivedReply { knock, reply, round_trip, at })
        })
    }
}

impl SentKnock {
    fn next_resend(&mut self) -> Option<Steady> {
        self.resends.peek().map(|&after| self.first.plus(after))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::thread::{self, JoinHandle};

    use super::*;
    use spa_knock_core::crypto::{PairSecret, Secret};
    use spa_knock_core::knock::{AddressPolicy, Argument, Knock, ReplyStatus, ReplyText, ReplyWanted};
    use spa_knock_core::wire::{Envelope, seal_reply};

    const TIMEOUT: Duration = Duration::from_secs(20);

    fn within(time: Duration) -> Steady {
        clock::steady().plus(time)
    }

    fn pair() -> PairSecret {
        PairSecret::new(Secret::from_bytes(&[7; 32]))
    }

    fn knock(action: &str) -> Datagram {
        let knock = Knock {
            timestamp: clock::wall(),
            reply: ReplyWanted::Yes,
            seconds: 0,
            otp: None,
            policy: AddressPolicy::Observed,
            ipv4: None,
            ipv6: None,
            action: action.parse().unwrap(),
            argument: Argument::none(),
        };
        Datagram::seal(&knock, &pair().keys(&"a".parse().unwrap()).client()).unwrap()
    }

    fn sealed_reply(datagram: &[u8], text: &str) -> Vec<u8> {
        let keys = pair().keys(&"a".parse().unwrap()).keeper();
        let reply = Reply {
            status: ReplyStatus::Granted,
            server_time: clock::wall(),
            observed: [192, 0, 2, 1].into(),
            port: 1,
            seconds: 30,
            text: ReplyText::fitting(text),
        };
        let nonce = Envelope::read(datagram).unwrap().nonce;
        seal_reply(&reply, &keys.reply, nonce, &spa_knock_core::crypto::random().unwrap()).unwrap()
    }

    /// A server that receives `count` datagrams, passes each to `serve` and returns them all.
    fn server(
        count: usize,
        serve: impl Fn(&UdpSocket, SocketAddr, usize, &[u8]) + Send + 'static,
    ) -> (SocketAddr, JoinHandle<Vec<Vec<u8>>>) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        let address = socket.local_addr().unwrap();
        let served = thread::spawn(move || {
            (1..=count)
                .map(|number| {
                    let mut bytes = [0; 512];
                    let (length, from) = loop {
                        // Suspending the machine interrupts a receive call that has a timeout.
                        match socket.recv_from(&mut bytes) {
                            Err(error) if error.kind() == ErrorKind::Interrupted => {}
                            received => break received.unwrap(),
                        }
                    };
                    serve(&socket, from, number, &bytes[..length]);
                    bytes[..length].to_vec()
                })
                .collect()
        });
        (address, served)
    }

    fn connected(server: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(server).unwrap();
        socket
    }

    fn reply_key() -> ReplyKey {
        pair().keys(&"a".parse().unwrap()).client().reply
    }

    #[test]
    fn a_reply_ends_the_wait() {
        let (address, served) = server(1, |socket, from, _, bytes| {
            socket.send_to(&sealed_reply(bytes, "welcome"), from).unwrap();
        });
        let (socket, key) = (connected(address), reply_key());
        let mut exchange = Exchange::new(&socket, &key);
        exchange.send(knock("open")).unwrap();
        let received = exchange.receive(within(TIMEOUT), Resend::Yes).unwrap();
        assert_eq!((received.knock, received.reply.text.as_str()), (0, "welcome"));
        assert!(received.round_trip < TIMEOUT);
        served.join().unwrap();
    }

    #[test]
    fn a_resend_is_the_identical_datagram() {
        let (address, served) = server(3, |socket, from, number, bytes| {
            if number == 3 {
                socket.send_to(&sealed_reply(bytes, ""), from).unwrap();
            }
        });
        let (socket, key) = (connected(address), reply_key());
        let mut exchange = Exchange::new(&socket, &key);
        exchange.send(knock("open")).unwrap();
        let received = exchange.receive(within(TIMEOUT), Resend::Yes).unwrap();
        assert!(received.round_trip >= RESENDS[1], "{:?}", received.round_trip);
        let datagrams = served.join().unwrap();
        assert!(datagrams.iter().all(|datagram| *datagram == datagrams[0]));
    }

    #[test]
    fn without_a_reply_the_wait_ends_at_the_timeout() {
        let (address, served) = server(2, |_, _, _, _| ());
        let (socket, key) = (connected(address), reply_key());
        let mut exchange = Exchange::new(&socket, &key);
        exchange.send(knock("open")).unwrap();
        let start = clock::steady();
        assert!(exchange.receive(within(Duration::from_millis(400)), Resend::Yes).is_none());
        assert!(clock::steady().since(start) >= Duration::from_millis(400));
        served.join().unwrap();
    }

    #[test]
    fn a_datagram_that_does_not_decrypt_under_the_key_is_no_reply() {
        let (address, served) = server(1, |socket, from, _, bytes| {
            let good = sealed_reply(bytes, "good");
            let mut altered = good.clone();
            altered[40] ^= 1;
            let long = [good.as_slice(), &[0]].concat();
            let to_another = sealed_reply(knock("other").as_bytes(), "of another");
            for wrong in [&b""[..], b"hello", bytes, &altered, &long, &to_another, &good] {
                socket.send_to(wrong, from).unwrap();
            }
        });
        let (socket, key) = (connected(address), reply_key());
        let mut exchange = Exchange::new(&socket, &key);
        exchange.send(knock("open")).unwrap();
        assert_eq!(exchange.receive(within(TIMEOUT), Resend::No).unwrap().reply.text.as_str(), "good");
        served.join().unwrap();
    }

    #[test]
    fn an_icmp_error_is_no_reply() {
        // Below 1024: the kernel assigns it to no other test.
        let closed = SocketAddr::from(([127, 0, 0, 1], 1));
        let (socket, key) = (connected(closed), reply_key());
        let mut exchange = Exchange::new(&socket, &key);
        exchange.send(knock("open")).unwrap();
        assert!(exchange.receive(within(Duration::from_millis(600)), Resend::Yes).is_none());
        exchange.send(knock("again")).unwrap();
    }

    #[test]
    fn late_replies_to_an_earlier_knock_are_received_too() {
        let (address, served) = server(2, |socket, from, number, bytes| {
            socket.send_to(&sealed_reply(bytes, &number.to_string()), from).unwrap();
        });
        let (socket, key) = (connected(address), reply_key());
        let mut exchange = Exchange::new(&socket, &key);
        exchange.send(knock("first")).unwrap();
        exchange.send(knock("second")).unwrap();
        for number in 0..2 {
            assert_eq!(exchange.receive(within(TIMEOUT), Resend::Yes).unwrap().knock, number);
        }
        served.join().unwrap();
    }
}
