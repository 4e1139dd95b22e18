//! The lab works: if a port were open or a host replied, the other tests would notice.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::net::{
    CLIENT4, CLIENT6, Counter, KNOCK_PORT, Lab, NatLab, ROUTER4, SERVER4, SERVER6, Wire, ask,
    ipv4_with_options, ipv6_with_extensions, limited, plain, still_echoes,
};

#[test]
fn an_open_port_is_found_open_and_a_dropped_one_closed() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for server in [SERVER4, SERVER6] {
        assert!(still_echoes(&mut lab.client.connect(server, 22).unwrap()));
        assert!(lab.neighbor.reaches(server, 22));
    }
    lab.server.nft("add table inet t");
    lab.server.nft("add chain inet t in { type filter hook input priority 0 ; }");
    let start = Instant::now();
    lab.server.nft("add rule inet t in tcp dport 22 ct state new drop");
    assert!(lab.client.wait_until_closed(SERVER4, 22).began - start < Duration::from_millis(200));
    assert!(!lab.neighbor.reaches(SERVER6, 22));
}

#[test]
fn the_counter_counts_icmp_and_replies_but_not_neighbor_discovery() {
    let Some(lab) = Lab::new() else { return };
    let counter = Counter::new(&lab.client);
    for server in [SERVER4, SERVER6] {
        lab.server.ip("neigh flush all");
        lab.client.ip("neigh flush all");
        assert_eq!(counter.packets(), 0);
        let client = if server.is_ipv4() { CLIENT4 } else { CLIENT6 };
        let _ = lab.client.udp(client).send_to(b"x", (server, KNOCK_PORT));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(counter.packets(), 1, "port unreachable from {server}");
        lab.client.nft("reset counters table inet count");
    }
}

#[test]
fn a_scan_without_a_daemon_finds_the_port_closed() {
    let Some(lab) = Lab::new() else { return };
    let counter = Counter::new(&lab.client);
    let args = ["-sU", "-n", "-Pn", "--reason", "--disable-arp-ping", "-p", "62201", "10.77.0.1"];
    let output = lab.client.output(limited("nmap").args(args));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("closed") && text.contains("port-unreach"), "{text}");
    assert!(counter.packets() > 0);
}

#[test]
fn frames_with_options_and_extension_headers_are_valid() {
    let Some(lab) = Lab::new() else { return };
    let socket = lab.server.enter(|| UdpSocket::bind(("::", KNOCK_PORT))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let (IpAddr::V4(client4), IpAddr::V4(server4)) = (CLIENT4, SERVER4) else { unreachable!() };
    let (IpAddr::V6(client6), IpAddr::V6(server6)) = (CLIENT6, SERVER6) else { unreachable!() };
    for frame in [
        plain(&wire, client4, server4, b"a knock"),
        ipv4_with_options(&wire, client4, server4, b"a knock"),
        ipv6_with_extensions(&wire, client6, server6, b"a knock"),
    ] {
        wire.send(&frame);
        let mut received = [0; 100];
        let length = socket.recv(&mut received).expect("the kernel accepts the frame");
        assert_eq!(&received[..length], b"a knock");
    }
}

#[test]
fn a_reply_reaches_the_client_through_the_router() {
    let Some(lab) = NatLab::new() else { return };
    let socket = lab.server.enter(|| UdpSocket::bind((SERVER4, KNOCK_PORT))).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let (length, from) = socket.recv_from(&mut [0; 100]).unwrap();
            assert_eq!((length, from.ip()), (7, ROUTER4), "the server sees the router's address");
            socket.send_to(b"reply", from).unwrap();
        });
        let client = lab.client.udp(IpAddr::from([10, 77, 2, 2]));
        assert_eq!(ask(&client, SERVER4, b"a knock"), Some(b"reply".to_vec()));
    });
}

#[test]
fn neighbors_reach_only_the_server() {
    let Some(lab) = Lab::new() else { return };
    lab.client.echo(22);
    assert!(!lab.neighbor.reaches(CLIENT4, 22));
    assert!(lab.server.reaches(CLIENT4, 22));
}
