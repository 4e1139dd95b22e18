//! A client that sends its knock again after the answer learns how its command ended.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use spa_knock_core::knock::{Reply, ReplyStatus};
use spa_knock_core::wire::Datagram;

use crate::net::{CLIENT4, Daemon, KNOCK_PORT, Key, Lab, SERVER4, Site, ask, ask_patiently, knock, within};

const SOON: Duration = Duration::from_secs(5);

fn site() -> Site {
    let site = Site::new("", "");
    let wait = |then: &str| {
        let go = site.path("go");
        format!("[\"/bin/sh\", \"-c\", \"until [ -e {} ]; do sleep 0.05; done; {then}\"]", go.display())
    };
    let rest = format!(
        "[firewall]\nbackend = \"none\"\n[action.good]\nrun = {}\n[action.bad]\nrun = {}\n[action.quick]\nrun = [\"/bin/false\"]\n\
         [action.late]\nrun = [\"/bin/sleep\", \"60\"]\ntimeout = \"1s\"\n\
         [client.laptop]\nkey = \"laptop.key\"\nallow = [\"good\", \"bad\", \"quick\", \"late\"]\n",
        wait("exit 0"),
        wait("exit 3")
    );
    site.write_config("", &rest);
    site
}

/// The next answer from the server, if one comes within this time.
fn heard(socket: &UdpSocket, key: &Key, datagram: &Datagram, limit: Duration) -> Option<Reply> {
    socket.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).ok()?;
    Some(key.open(&buffer[..length], datagram))
}

fn said(reply: &Reply) -> (ReplyStatus, &str) {
    (reply.status, reply.text.as_str())
}

#[test]
fn a_knock_sent_again_after_its_answer_is_answered_when_its_command_has_ended() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let key = site.key("laptop");
    let _daemon = Daemon::start(&lab.server, &site);
    for (action, last) in
        [("good", (ReplyStatus::Done, "done")), ("bad", (ReplyStatus::ActionFailed, "exit status 3"))]
    {
        let _ = std::fs::remove_file(site.path("go"));
        let datagram = key.seal(&knock(action));
        let (asks, does_not) = (lab.client.udp(CLIENT4), lab.client.udp(CLIENT4));
        let other = key.seal(&knock(action));
        for (socket, datagram) in [(&asks, &datagram), (&does_not, &other)] {
            // Sent once: a second copy would ask for the end.
            socket.set_read_timeout(Some(SOON)).unwrap();
            let first = ask(socket, SERVER4, datagram.as_bytes()).expect("an answer");
            assert_eq!(said(&key.open(&first, datagram)), (ReplyStatus::Done, "started"));
        }
        asks.send_to(datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
        let again = heard(&asks, &key, &datagram, SOON).expect("the same answer");
        assert_eq!(said(&again), (ReplyStatus::Done, "started"));
        std::fs::write(site.path("go"), "").unwrap();
        // Its own copy may still be on its way.
        let ended =
            within(SOON, || heard(&asks, &key, &datagram, SOON).is_some_and(|reply| said(&reply) == last));
        assert!(ended, "{action}");
        assert!(heard(&asks, &key, &datagram, SOON).is_some_and(|reply| said(&reply) == last), "once more");
        assert_eq!(heard(&asks, &key, &datagram, Duration::from_millis(1_500)), None, "and no more");
        assert_eq!(heard(&does_not, &key, &other, Duration::from_millis(1)), None, "it has not asked");
        // Who asks late hears it, too.
        does_not.send_to(other.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
        assert_eq!(heard(&does_not, &key, &other, SOON).as_ref().map(said), Some(last));
    }
}

#[test]
fn a_command_that_ends_before_it_is_asked_for_or_at_its_timeout_is_reported_too() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let key = site.key("laptop");
    let _daemon = Daemon::start(&lab.server, &site);
    let server: IpAddr = SERVER4;
    for (action, failed, text) in [("quick", 1, "exit status 1"), ("late", 2, "ended at its timeout")] {
        let datagram = key.seal(&knock(action));
        let socket = lab.client.udp(CLIENT4);
        assert!(ask_patiently(&socket, server, datagram.as_bytes()).is_some());
        assert!(within(SOON, || site.audit_of("failed").len() == failed), "{:?}", site.audit());
        let last = ask_patiently(&socket, server, datagram.as_bytes()).expect("an answer");
        assert_eq!(said(&key.open(&last, &datagram)), (ReplyStatus::ActionFailed, text));
    }
}
