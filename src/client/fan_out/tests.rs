//! Simultaneous knocks at scripted servers on the loopback interface.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::client::failure::ExitCause;
use crate::client::keys::sources::{Key, Origin};
use crate::client::knock::plan::Learning;
use crate::client::knock::request::KnockRequest;
use crate::client::knock::route::FamilyFilter;
use crate::client::knock::target::Destination;
use crate::config::AddressChoice;
use crate::os::clock;
use spa_knock_core::crypto::{KeyFile, KeyOwner, PairSecret, Secret, random};
use spa_knock_core::knock::{Argument, Reply, ReplyStatus, ReplyText, ReplyWanted, ServerId, SourceOption};
use spa_knock_core::wire::{Envelope, seal_reply};

const TIMEOUT: Duration = Duration::from_secs(20);

fn id() -> ServerId {
    "bastion".parse().unwrap()
}

fn pair() -> PairSecret {
    PairSecret::new(Secret::from_bytes(&[9; 32]))
}

/// A server of the group. All have the same id and key, as members of one cluster do.
struct ScriptedServer(UdpSocket);

impl ScriptedServer {
    fn new() -> Self {
        Self::at("127.0.0.1:0")
    }

    fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(TIMEOUT)).unwrap();
        Self(socket)
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut bytes = [0; 512];
        loop {
            match self.0.recv_from(&mut bytes) {
                // Suspending the machine interrupts a receive call that has a timeout.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => {
                    let (length, from) = received.unwrap();
                    return (bytes[..length].to_vec(), from);
                }
            }
        }
    }

    /// Sends a reply to this knock.
    fn reply(&self, knock: &[u8], to: SocketAddr, status: ReplyStatus) {
        let keys = pair().keys(&id()).keeper();
        let reply = Reply {
            status,
            server_time: clock::wall(),
            observed: to.ip(),
            port: to.port(),
            seconds: 30,
            text: ReplyText::default(),
        };
        let nonce = Envelope::read(knock).unwrap().nonce;
        let sealed = seal_reply(&reply, &keys.reply, nonce, &random().unwrap()).unwrap();
        self.0.send_to(&sealed, to).unwrap();
    }
}

fn member(name: &str, server: &ScriptedServer) -> Member {
    let holder = KeyOwner::Pair { server: id(), secret: pair() };
    let file = KeyFile { client: None, holder, address: None, port: None, ssh_key: None };
    let at = server.0.local_addr().unwrap();
    let request = KnockRequest {
        server: "group".to_owned(),
        member: Some(name.to_owned()),
        target: Destination { host: at.ip().to_string(), port: at.port(), id: id() },
        resolved: None,
        addresses: AddressChoice::All,
        key: Key { file, origin: Origin::Environment }.into(),
        signing: None,
        learning: Learning::FromReply,
        action: "open-ssh".parse().unwrap(),
        argument: Argument::none(),
        seconds: 0,
        otp: None,
        source: SourceOption::Auto,
        reply: ReplyWanted::Yes,
        timeout: TIMEOUT,
        end: None,
        patience: None,
        wait: None,
        family: FamilyFilter::Any,
        state: None,
        ports: None,
    };
    Member { name: name.to_owned(), request: Ok(Arc::new(request)) }
}

fn group(members: Vec<Member>, patience: Option<Duration>) -> FanOut {
    FanOut {
        server: "group".to_owned(),
        members,
        wait: None,
        patience,
        family: FamilyFilter::Any,
        timeout: TIMEOUT,
        end: false,
    }
}

fn lines(result: &Result<KnockSuccess, ClientError>) -> Vec<String> {
    match result {
        Ok(knocked) => knocked.text.lines().map(str::to_owned).collect(),
        Err(failure) => failure.servers().unwrap().iter().map(|server| server.text().to_owned()).collect(),
    }
}

#[test]
fn each_server_gets_a_knock_of_its_own_and_cannot_reply_for_another() {
    let (one, other) = (ScriptedServer::new(), ScriptedServer::new());
    let request = group(vec![member("b1", &one), member("b2", &other)], None);
    std::thread::scope(|scope| {
        let knocked = scope.spawn(|| lines(&knock(&request, &Reporter::SILENT)));
        let ((first, to_first), (second, to_second)) = (one.receive(), other.receive());
        assert_ne!(first, second);
        assert_ne!(Envelope::read(&first).unwrap().nonce, Envelope::read(&second).unwrap().nonce);
        // Both know the key. A reply to the other server's knock is no reply to this one.
        one.reply(&second, to_first, ReplyStatus::Granted);
        other.reply(&first, to_second, ReplyStatus::Granted);
        one.reply(&first, to_first, ReplyStatus::NotAllowed);
        other.reply(&second, to_second, ReplyStatus::Exhausted);
        let lines = knocked.join().unwrap();
        assert_eq!(lines[0], "group: open-ssh refused by b1 (127.0.0.1): not allowed");
        assert!(lines[1].starts_with("group: open-ssh refused by b2 (127.0.0.1): "), "{lines:?}");
    });
}

#[test]
fn a_silent_server_gets_its_knock_twice_before_the_result_is_reported() {
    let (granting, silent) = (ScriptedServer::new(), ScriptedServer::new());
    let request = group(vec![member("b1", &silent), member("b2", &granting)], None);
    std::thread::scope(|scope| {
        let knocked = scope.spawn(|| lines(&knock(&request, &Reporter::SILENT)));
        let (bytes, from) = granting.receive();
        granting.reply(&bytes, from, ReplyStatus::Granted);
        assert_eq!(silent.receive().0, silent.receive().0, "a resend is the identical datagram");
        let lines = knocked.join().unwrap();
        // On a busy machine, it may have been sent more often.
        assert!(
            lines[0].starts_with("group: no reply yet from b1 (127.0.0.1): the knock was sent "),
            "{lines:?}"
        );
        assert_eq!(lines[1], "group: open-ssh granted to 127.0.0.1 for 30s by b2 (127.0.0.1)");
    });
}

/// The first server grants, but its port accepts no connection; the second one grants later.
#[cfg(target_os = "linux")]
#[test]
fn the_connection_goes_to_the_first_server_that_grants_and_accepts() {
    let (early, late) = (ScriptedServer::new(), ScriptedServer::at("127.0.0.2:0"));
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let request = group(vec![member("b1", &early), member("b2", &late)], Some(TIMEOUT));
    std::thread::scope(|scope| {
        let connected = scope.spawn(|| connect(&request, port, &Reporter::SILENT).unwrap());
        let (bytes, from) = early.receive();
        early.reply(&bytes, from, ReplyStatus::Granted);
        std::thread::sleep(Duration::from_millis(50));
        let (bytes, from) = late.receive();
        late.reply(&bytes, from, ReplyStatus::Granted);
        let (stream, knocked) = connected.join().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        assert_eq!(
            knocked.text,
            "group: open-ssh granted to 127.0.0.1 for 30s by b1 (127.0.0.1)\n\
             group: open-ssh granted to 127.0.0.1 for 30s by b2 (127.0.0.2)"
        );
    });
}

#[test]
fn no_connection_is_an_error_with_the_outcome_at_each_server() {
    let server = ScriptedServer::new();
    // Below 1024: the kernel assigns it to no other test.
    let request = group(vec![member("b1", &server)], Some(Duration::from_millis(300)));
    std::thread::scope(|scope| {
        let connected = scope.spawn(|| connect(&request, 1, &Reporter::SILENT).map(drop).unwrap_err());
        let (bytes, from) = server.receive();
        server.reply(&bytes, from, ReplyStatus::Granted);
        let failure = connected.join().unwrap();
        assert_eq!(failure.cause(), ExitCause::NotAccepting);
        assert_eq!(
            failure.reason(),
            "127.0.0.1: knocked, but tcp port 1 did not accept a connection within 300ms"
        );
        assert_eq!(failure.servers().unwrap().len(), 1);
    });
}

#[test]
fn a_server_whose_addresses_are_tried_in_turn_is_named_with_the_address_that_granted() {
    let server = ScriptedServer::new();
    let mut in_turn = member("b1", &server);
    Arc::get_mut(in_turn.request.as_mut().unwrap()).unwrap().addresses = AddressChoice::First;
    let request = group(vec![in_turn], None);
    std::thread::scope(|scope| {
        let knocked = scope.spawn(|| lines(&knock(&request, &Reporter::SILENT)));
        let (bytes, from) = server.receive();
        server.reply(&bytes, from, ReplyStatus::Granted);
        assert_eq!(
            knocked.join().unwrap(),
            ["group: open-ssh granted to 127.0.0.1 for 30s by b1 (127.0.0.1)"]
        );
    });
}

#[test]
fn a_server_without_a_key_does_not_stop_the_others() {
    let server = ScriptedServer::new();
    let broken = ClientError::new(ExitCause::Files, "key file /b1.key: no such file or directory");
    let broken = Member { name: "b1".to_owned(), request: Err(broken) };
    let request = group(vec![broken, member("b2", &server)], None);
    std::thread::scope(|scope| {
        let knocked = scope.spawn(|| lines(&knock(&request, &Reporter::SILENT)));
        let (bytes, from) = server.receive();
        server.reply(&bytes, from, ReplyStatus::Granted);
        assert_eq!(
            knocked.join().unwrap(),
            [
                "group: b1: key file /b1.key: no such file or directory",
                "group: open-ssh granted to 127.0.0.1 for 30s by b2 (127.0.0.1)"
            ]
        );
    });
}
