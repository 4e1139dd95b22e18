//! A client that resends its knock after the reply learns the result of its command.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use spa_knock_core::knock::{Reply, ReplyStatus};
use spa_knock_core::wire::Datagram;

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Key, Lab, SERVER4, SOON, Site, ask, ask_patiently, knock, within,
};

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

/// The next reply from the server, if one arrives within this time.
fn next_reply(socket: &UdpSocket, key: &Key, datagram: &Datagram, limit: Duration) -> Option<Reply> {
    socket.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).ok()?;
    Some(key.open(&buffer[..length], datagram))
}

fn content(reply: &Reply) -> (ReplyStatus, &str) {
    (reply.status, reply.text.as_str())
}

#[test]
fn a_resent_knock_gets_another_reply_when_its_command_has_finished() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let key = site.key("laptop");
    let _daemon = Daemon::start(&lab.server, &site);
    for (action, last) in
        [("good", (ReplyStatus::Done, "done")), ("bad", (ReplyStatus::ActionFailed, "exit status 3"))]
    {
        let _ = std::fs::remove_file(site.path("go"));
        let datagram = key.seal(&knock(action));
        let (resends, does_not_resend) = (lab.client.udp(CLIENT4), lab.client.udp(CLIENT4));
        let other = key.seal(&knock(action));
        for (socket, datagram) in [(&resends, &datagram), (&does_not_resend, &other)] {
            // Sent only once, because a duplicate would request the result of the command.
            socket.set_read_timeout(Some(SOON)).unwrap();
            let first = ask(socket, SERVER4, datagram.as_bytes()).expect("a reply");
            assert_eq!(content(&key.open(&first, datagram)), (ReplyStatus::Done, "started"));
        }
        resends.send_to(datagram.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
        let again = next_reply(&resends, &key, &datagram, SOON).expect("the same reply");
        assert_eq!(content(&again), (ReplyStatus::Done, "started"));
        std::fs::write(site.path("go"), "").unwrap();
        // The reply to the resent datagram may still be on its way.
        let result_received = within(SOON, || {
            next_reply(&resends, &key, &datagram, SOON).is_some_and(|reply| content(&reply) == last)
        });
        assert!(result_received, "{action}");
        assert!(
            next_reply(&resends, &key, &datagram, SOON).is_some_and(|reply| content(&reply) == last),
            "the result is sent twice"
        );
        assert_eq!(
            next_reply(&resends, &key, &datagram, Duration::from_millis(1_500)),
            None,
            "and not a third time"
        );
        assert_eq!(
            next_reply(&does_not_resend, &key, &other, Duration::from_millis(1)),
            None,
            "this client has not resent its knock"
        );
        // A client that resends later gets the result too.
        does_not_resend.send_to(other.as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
        assert_eq!(next_reply(&does_not_resend, &key, &other, SOON).as_ref().map(content), Some(last));
    }
}

#[test]
fn a_command_that_finishes_before_the_resend_or_at_its_timeout_is_reported_too() {
    let Some(lab) = Lab::new() else { return };
    let site = site();
    let key = site.key("laptop");
    let _daemon = Daemon::start(&lab.server, &site);
    let server: IpAddr = SERVER4;
    for (action, failed, text) in [("quick", 1, "exit status 1"), ("late", 2, "timed out")] {
        let datagram = key.seal(&knock(action));
        let socket = lab.client.udp(CLIENT4);
        assert!(ask_patiently(&socket, server, datagram.as_bytes()).is_some());
        assert!(within(SOON, || site.audit_of("failed").len() == failed), "{:?}", site.audit());
        let last = ask_patiently(&socket, server, datagram.as_bytes()).expect("a reply");
        assert_eq!(content(&key.open(&last, &datagram)), (ReplyStatus::ActionFailed, text));
    }
}
