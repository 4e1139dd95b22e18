//! Complete knocks against a scripted server on the loopback interface.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::plan::Learning;
use super::route::FamilyFilter;
use super::target::Destination;
use super::*;
use crate::client::agent::Signing;
use crate::client::keys::sources::{Key, Origin};
use crate::config::AddressChoice;
use crate::os::clock;
use spa_knock_core::crypto::{KeyFile, KeyOwner, PairSecret, Secret, random};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, ProtocolVersion, ReplyStatus, ReplyText, ReplyWanted, ServerId,
};
use spa_knock_core::wire::{Envelope, seal_reply};

const SEEN: &str = "203.0.113.9";
const OTHER: &str = "198.51.100.66";
const HERE: &str = "127.0.0.1";

fn id() -> ServerId {
    "bastion".parse().unwrap()
}

fn pair() -> PairSecret {
    PairSecret::new(Secret::from_bytes(&[9; 32]))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn reply(status: ReplyStatus, observed: &str) -> Reply {
    Reply {
        status,
        server_time: clock::wall(),
        observed: ip(observed),
        port: 1,
        seconds: if status == ReplyStatus::Granted { 30 } else { 0 },
        text: ReplyText::default(),
    }
}

/// A server that sends the replies from `replies` to each knock, counted from 1; returns the knocks that it received.
fn server(
    count: usize,
    replies: impl Fn(usize, &Knock) -> Vec<Reply> + Send + 'static,
) -> (u16, JoinHandle<Vec<Knock>>) {
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let port = socket.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let keys = pair().keys(&id()).keeper();
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
                let envelope = Envelope::read(&bytes[..length]).unwrap();
                let knock = envelope.open(&keys).unwrap().understand().unwrap().clone();
                for reply in replies(number, &knock) {
                    let sealed = seal_reply(&reply, &keys.reply, envelope.nonce, &random().unwrap()).unwrap();
                    socket.send_to(&sealed, from).unwrap();
                }
                knock
            })
            .collect()
    });
    (port, served)
}

fn request(port: u16, state: Option<&Path>) -> KnockRequest {
    let holder = KeyOwner::Pair { server: id(), secret: pair() };
    KnockRequest {
        server: "bastion".to_owned(),
        member: None,
        addresses: AddressChoice::First,
        target: Destination { host: HERE.to_owned(), port, id: id() },
        resolved: None,
        key: Arc::new(Key {
            file: KeyFile { client: None, holder, address: None, port: None, ssh_key: None },
            origin: Origin::Environment,
        }),
        signing: None,
        learning: Learning::FromReply,
        action: "open-ssh".parse().unwrap(),
        argument: Argument::none(),
        seconds: 0,
        otp: None,
        source: SourceOption::Auto,
        reply: ReplyWanted::Yes,
        timeout: Duration::from_secs(20),
        end: None,
        patience: None,
        wait: None,
        family: FamilyFilter::Any,
        state: state.map(Path::to_owned),
        ports: None,
    }
}

fn knocked(request: &KnockRequest) -> Result<KnockSuccess, ClientError> {
    knock(request, &Reporter::PLAIN)
}

#[test]
fn a_grant_is_reported_with_its_address_and_duration() {
    let (port, served) = server(1, |_, _| vec![reply(ReplyStatus::Granted, HERE)]);
    let knocked = knocked(&request(port, None)).unwrap();
    assert_eq!(knocked.text, "bastion: open-ssh granted to 127.0.0.1 for 30s");
    assert_eq!((knocked.success.result, knocked.success.seconds), ("granted", Some(30)));
    let knocks = served.join().unwrap();
    assert_eq!((knocks[0].policy, knocks[0].ipv4), (AddressPolicy::Exact, Some([127, 0, 0, 1].into())));
}

#[test]
fn behind_nat_a_second_knock_is_granted_and_the_next_one_uses_its_address_immediately() {
    let state = tempfile::tempdir().unwrap();
    let (port, served) = server(3, |number, _| {
        vec![reply(if number == 1 { ReplyStatus::AddressRefused } else { ReplyStatus::Granted }, SEEN)]
    });
    let request = request(port, Some(state.path()));
    for _ in 0..2 {
        assert_eq!(knocked(&request).unwrap().success.address.as_deref(), Some(SEEN));
    }
    let named: Vec<_> = served.join().unwrap().iter().map(|knock| knock.ipv4.unwrap().to_string()).collect();
    assert_eq!(named, [HERE, SEEN, SEEN]);
}

#[test]
fn an_address_is_not_saved_without_a_grant() {
    let state = tempfile::tempdir().unwrap();
    let (port, served) = server(2, |_, _| vec![reply(ReplyStatus::AddressRefused, SEEN)]);
    assert_eq!(knocked(&request(port, Some(state.path()))).unwrap_err().cause(), ExitCause::Refused);
    served.join().unwrap();
    assert_eq!(crate::os::files::list(state.path()).unwrap(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn two_replies_with_different_addresses_end_the_knock() {
    let state = tempfile::tempdir().unwrap();
    // The server receives only one knock: the second reply arrives within the linger time.
    let (port, served) = server(1, |_, _| {
        vec![reply(ReplyStatus::AddressRefused, SEEN), reply(ReplyStatus::AddressRefused, OTHER)]
    });
    let failure = knocked(&request(port, Some(state.path()))).unwrap_err();
    assert_eq!(failure.cause(), ExitCause::Refused);
    assert_eq!(
        failure.reason(),
        "bastion: two replies to one knock report different addresses, 203.0.113.9 and 198.51.100.66"
    );
    served.join().unwrap();
    assert_eq!(crate::os::files::list(state.path()).unwrap(), [] as [std::path::PathBuf; 0]);
}

#[test]
fn a_grant_counts_even_if_it_contradicts_an_earlier_reply() {
    let (port, served) =
        server(1, |_, _| vec![reply(ReplyStatus::AddressRefused, OTHER), reply(ReplyStatus::Granted, HERE)]);
    assert_eq!(knocked(&request(port, None)).unwrap().success.address.as_deref(), Some(HERE));
    served.join().unwrap();
}

#[test]
fn copies_of_a_reply_change_nothing() {
    let (port, served) = server(2, |number, _| {
        vec![reply(if number == 1 { ReplyStatus::AddressRefused } else { ReplyStatus::Granted }, SEEN); 3]
    });
    assert_eq!(knocked(&request(port, None)).unwrap().success.address.as_deref(), Some(SEEN));
    served.join().unwrap();
}

#[test]
fn every_refusal_has_a_reason_the_servers_text_and_a_hint() {
    for status in (2..=9).filter_map(ReplyStatus::from_code) {
        let (port, served) =
            server(1, move |_, _| vec![Reply { text: ReplyText::fitting("see you"), ..reply(status, HERE) }]);
        let failure = knocked(&request(port, None)).unwrap_err();
        assert_eq!(failure.reason(), format!("bastion: open-ssh refused: {status} (see you)"));
        assert!(failure.to_string().contains("\nhint: "));
        assert_eq!(failure.observed(), Some(ip(HERE)));
        served.join().unwrap();
    }
}

#[test]
fn a_missing_reply_is_explained_and_does_not_change_the_policy() {
    let (port, served) = server(2, |_, _| Vec::new());
    let short = KnockRequest { timeout: Duration::from_millis(400), ..request(port, None) };
    let failure = knocked(&short).unwrap_err();
    assert_eq!(failure.cause(), ExitCause::NoReply);
    assert!(failure.to_string().contains("the clocks differ"), "{failure}");
    let knocks = served.join().unwrap();
    assert_eq!(knocks[0], knocks[1]);
}

/// The same request, signed by an SSH key, which the key file names if `is_named`.
fn signed(is_named: bool) -> KnockRequest {
    let ssh_key = "SHA256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".parse().ok();
    let holder = KeyOwner::Pair { server: id(), secret: pair() };
    let file =
        KeyFile { client: None, holder, address: None, port: None, ssh_key: ssh_key.filter(|_| is_named) };
    KnockRequest {
        key: Arc::new(Key { file, origin: Origin::Environment }),
        signing: Signing::of_key_file(ssh_key).map(Arc::new),
        ..request(1, None)
    }
}

#[test]
fn a_missing_reply_is_explained_with_the_fingerprints_of_both_versions() {
    let [one, two] =
        [ProtocolVersion::V1, ProtocolVersion::V2].map(|version| pair().fingerprint(version, &id()));
    let add = format!(
        "\n  - the server requires an SSH key for this client: the same command then prints key {two} and that SSH key; use --sign FILE.pub\n"
    );
    let remove = format!("; if it prints key {one} instead, remove --sign, and `sign` from the profile\n");
    for (request, used, cause) in [
        (request(1, None), one, add.as_str()),
        (signed(false), two, &remove),
        // The fingerprint of the SSH key ends the line.
        (signed(true), two, "GBkaGxwdHh8\n  - the clocks"),
    ] {
        let failure = diagnosis::no_reply(&request, HERE, used);
        assert!(failure.advice().contains(&format!("you used key {used} ")), "{failure}");
        assert!(failure.advice().contains(cause), "{failure}");
    }
}

#[test]
fn the_hint_after_a_refused_signature_never_contradicts_the_key_file() {
    let refused =
        Reply { text: ReplyText::fitting("signature"), ..reply(ReplyStatus::SignatureRefused, HERE) };
    for is_named in [false, true] {
        let failure = diagnosis::refused(&signed(is_named), &refused, "");
        let hint = failure.advice();
        assert_eq!(hint.contains("use --sign FILE.pub"), !is_named, "{hint}");
        assert_eq!(hint.contains("replace the key file by the new one"), is_named, "{hint}");
        assert!(hint.contains("`spa-knockd client rotate NAME --ssh-key FILE.pub`"), "{hint}");
    }
}

#[test]
fn a_knock_without_a_reply_is_one_datagram() {
    let (port, served) = server(1, |_, _| Vec::new());
    let silent = KnockRequest { reply: ReplyWanted::No, ..request(port, None) };
    let (knocked, _) = super::unanswered::knock(&silent, &Reporter::PLAIN).unwrap();
    assert_eq!(knocked.success.result, "sent");
    assert_eq!(served.join().unwrap()[0].reply, ReplyWanted::No);
}

#[test]
fn a_knock_claims_the_configured_address() {
    let (port, served) = server(2, |number, _| {
        let status = if number == 1 { ReplyStatus::AddressRefused } else { ReplyStatus::Done };
        vec![reply(status, HERE)]
    });
    let exact = KnockRequest { source: SEEN.parse().unwrap(), ..request(port, None) };
    let failure = knocked(&exact).unwrap_err();
    assert!(failure.to_string().contains("--source 127.0.0.1"), "{failure}");
    let listed = KnockRequest { source: "listed:203.0.113.9,2001:db8::9".parse().unwrap(), ..exact };
    assert_eq!(knocked(&listed).unwrap().success.result, "done");
    let knocks = served.join().unwrap();
    assert_eq!((knocks[0].policy, knocks[1].policy), (AddressPolicy::Exact, AddressPolicy::Listed));
    assert_eq!(knocks[1].embedded().count(), 2);
}

#[test]
fn a_started_command_is_not_reported_as_done() {
    for (text, seconds, result, line) in [
        ("started", 0, "started", "bastion: open-ssh started"),
        ("started", 60, "started", "bastion: open-ssh started; it will be undone in 1m"),
        ("", 0, "done", "bastion: open-ssh done"),
        ("see you", 0, "done", "bastion: open-ssh done (see you)"),
    ] {
        let (port, served) = server(1, move |_, _| {
            vec![Reply { text: ReplyText::fitting(text), seconds, ..reply(ReplyStatus::Done, HERE) }]
        });
        let knocked = knocked(&request(port, None)).unwrap();
        assert_eq!((knocked.success.result, knocked.text.as_str()), (result, line));
        served.join().unwrap();
    }
}

/// A server that starts a command at the first datagram, and sends `end` in reply to the copy that asks for the end.
fn started(end: Reply) -> (u16, JoinHandle<Vec<Knock>>) {
    server(2, move |number, _| {
        let started = Reply { text: ReplyText::fitting("started"), ..reply(ReplyStatus::Done, HERE) };
        match number {
            1 => vec![started],
            // First a copy of the first reply, which contains nothing new.
            _ => vec![started, end.clone()],
        }
    })
}

#[test]
fn the_client_waits_for_the_end_of_a_command_and_reports_its_failure() {
    let (port, served) =
        started(Reply { text: ReplyText::fitting("done"), ..reply(ReplyStatus::Done, HERE) });
    let patient = |port| KnockRequest { end: Some(Duration::from_secs(20)), ..request(port, None) };
    let done = knocked(&patient(port)).unwrap();
    assert_eq!((done.success.result, done.text.as_str()), ("done", "bastion: open-ssh done"));
    let knocks = served.join().unwrap();
    assert_eq!(knocks[0], knocks[1], "a copy asks for the end");

    let text = ReplyText::fitting("exit status 3");
    let (port, served) = started(Reply { text, ..reply(ReplyStatus::ActionFailed, HERE) });
    let failure = knocked(&patient(port)).unwrap_err();
    assert_eq!((failure.cause(), failure.cause().code()), (ExitCause::Failed, 1));
    assert_eq!(failure.reason(), "bastion: open-ssh failed: exit status 3");
    served.join().unwrap();
}

#[test]
fn an_end_that_is_not_reported_in_time_is_a_failure() {
    let started = || Reply { text: ReplyText::fitting("started"), ..reply(ReplyStatus::Done, HERE) };
    let (port, served) = server(1, move |_, _| vec![started()]);
    let patient = KnockRequest { end: Some(Duration::from_millis(300)), ..request(port, None) };
    let failure = knocked(&patient).unwrap_err();
    assert_eq!((failure.cause(), failure.cause().code()), (ExitCause::EndUnknown, 3));
    assert_eq!(failure.reason(), "bastion: open-ssh started; the server did not report its end within 300ms");
    served.join().unwrap();
}

#[test]
fn the_client_does_not_wait_for_a_server_that_reports_no_commands() {
    for status in [ReplyStatus::Done, ReplyStatus::Granted] {
        let (port, served) = server(1, move |_, _| vec![reply(status, HERE)]);
        let patient = KnockRequest { end: Some(Duration::from_secs(20)), ..request(port, None) };
        assert!(knocked(&patient).is_ok());
        served.join().unwrap();
    }
}
