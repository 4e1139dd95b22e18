//! Hosts on different links can have the same link-local address, so a grant for one is bound to the link of its knock.

use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn6, bind, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike};
use spa_knock_core::knock::ReplyStatus;

use super::doors::site;
use crate::net::{Daemon, KNOCK_PORT, Lab, Namespace, Site, knock};

const HERE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 1);
const THERE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 2);

/// Adds the same addresses on both links of the server.
fn link(lab: &Lab) {
    for interface in ["lan0", "lan1"] {
        lab.server.ip(&format!("addr add {HERE}/64 dev {interface}"));
    }
    for namespace in [&lab.client, &lab.neighbor] {
        namespace.ip(&format!("addr add {THERE}/64 dev eth0"));
    }
}

/// An address on the only link of a namespace.
fn on_link(address: Ipv6Addr, port: u16) -> SocketAddrV6 {
    SocketAddrV6::new(address, port, 0, if_nametoindex("eth0").unwrap())
}

fn reaches(namespace: &Namespace, port: u16) -> bool {
    namespace.enter(|| {
        let stream = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&stream, SendTimeout, &TimeVal::milliseconds(400)).unwrap();
        bind(stream.as_raw_fd(), &SockaddrIn6::from(on_link(THERE, 0))).unwrap();
        connect(stream.as_raw_fd(), &SockaddrIn6::from(on_link(HERE, port))).is_ok()
    })
}

/// Knocks over the client's link.
fn knock_over_link(lab: &Lab, site: &Site, action: &str) -> ReplyStatus {
    let laptop = site.key("laptop");
    let datagram = laptop.seal(&knock(action));
    lab.client.enter(|| {
        let socket = UdpSocket::bind(on_link(THERE, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
        let mut reply = [0; 2048];
        let length = (0..4).find_map(|_| {
            socket.send_to(datagram.as_bytes(), on_link(HERE, KNOCK_PORT)).unwrap();
            socket.recv(&mut reply).ok()
        });
        laptop.open(&reply[..length.expect("a reply")], &datagram).status
    })
}

#[test]
fn a_grant_for_a_link_local_address_is_valid_only_on_the_link_of_its_knock() {
    let Some(lab) = Lab::new() else { return };
    link(&lab);
    let actions = [
        ("ssh", "open = [\"tcp/22\", \"tcp/8000-8010\"]\nfor = \"1m\""),
        ("once", "open = [\"tcp/22\"]\nonce = true\nfor = \"1m\""),
    ];
    let site = site("protect = [\"tcp/22\", \"tcp/8000-8010\"]", &actions, "");
    for port in [22, 8_005] {
        lab.server.echo(port);
    }
    let daemon = Daemon::start(&lab.server, &site);
    assert!(!reaches(&lab.client, 22));
    assert_eq!(knock_over_link(&lab, &site, "ssh"), ReplyStatus::Granted, "{}", daemon.log());
    for port in [22, 8_005] {
        assert!(reaches(&lab.client, port), "{port}");
        assert!(!reaches(&lab.neighbor, port), "{port}: another host with the same address");
    }
    assert_eq!(knock_over_link(&lab, &site, "ssh"), ReplyStatus::Granted, "renewed");
    assert_eq!(knock_over_link(&lab, &site, "once"), ReplyStatus::AddressRefused);
    // The link is known after a restart, and after the table has been restored.
    drop(daemon);
    let daemon = Daemon::start(&lab.server, &site);
    assert!(reaches(&lab.client, 22) && !reaches(&lab.neighbor, 22));
    lab.server.nft("flush ruleset");
    assert!(crate::net::within(Duration::from_secs(5), || !reaches(&lab.neighbor, 22)), "{}", daemon.log());
    assert!(reaches(&lab.client, 22) && reaches(&lab.client, 8_005), "{}", daemon.log());
    let output = site.admin(&["revoke", "--all"]).output().unwrap();
    assert!(output.status.success());
    assert!(!reaches(&lab.client, 22) && !reaches(&lab.client, 8_005));
}

#[test]
fn iptables_refuses_a_link_local_address_with_the_reason() {
    let Some(lab) = Lab::new() else { return };
    link(&lab);
    let actions = [("ssh", "open = [\"tcp/22\"]\nfor = \"1m\"")];
    let site = site("backend = \"iptables\"\nprotect = [\"tcp/22\"]", &actions, "");
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    assert_eq!(knock_over_link(&lab, &site, "ssh"), ReplyStatus::ActionFailed);
    let failed = site.audit_of("failed");
    assert!(failed[0]["detail"].as_str().unwrap().contains("link-local"), "{}", failed[0]);
    assert!(!reaches(&lab.client, 22) && !reaches(&lab.neighbor, 22));
}
