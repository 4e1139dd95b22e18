//! The interfaces on which knocks are received, and the kinds of frames that contain them.

use std::net::IpAddr;
use std::process::Command;

use crate::net::{
    CLIENT4, CLIENT6, Daemon, KNOCK_PORT, Key, Lab, NEIGHBOR4, NEIGHBOR6, Namespace, SERVER4, SERVER6, Site,
    Wire, ask, ipv4_with_options, ipv6_with_extensions, open_ssh, plain, tagged, within,
};
use std::time::Duration;

/// Time limit until a frame has opened a port.
const SOON: Duration = Duration::from_secs(2);

fn opens(from: &Namespace, client: IpAddr, server: IpAddr, key: &Key) {
    assert!(!from.reaches(server, 22), "closed for {client}");
    assert!(ask(&from.udp(client), server, &key.good()).is_some(), "{client} gets a reply");
    assert!(from.reaches(server, 22), "open for {client}");
}

fn assert_both_interfaces_receive(server_lines: &str) {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(server_lines, &open_ssh(20));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    opens(&lab.client, CLIENT4, SERVER4, &key);
    opens(&lab.client, CLIENT6, SERVER6, &key);
    opens(&lab.neighbor, NEIGHBOR4, SERVER4, &key);
    opens(&lab.neighbor, NEIGHBOR6, SERVER6, &key);
}

#[test]
fn knocks_are_received_on_any_interface() {
    assert_both_interfaces_receive("interfaces = [\"any\"]");
}

#[test]
fn knocks_are_received_on_two_named_interfaces() {
    assert_both_interfaces_receive("interfaces = [\"lan0\", \"lan1\"]");
}

#[test]
fn knocks_are_received_by_an_ordinary_udp_socket() {
    assert_both_interfaces_receive("capture = \"udp\"");
}

#[test]
fn knocks_are_received_on_another_port() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("port = 40123", &open_ssh(20));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let output = lab.client.output(&mut site.knock(SERVER4, &["--port", "40123", "open-ssh"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_knock_on_an_interface_that_is_not_named_is_not_received() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("interfaces = [\"lan0\"]", &open_ssh(20));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    assert_eq!(ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &key.good()), None);
    assert!(!lab.neighbor.reaches(SERVER4, 22));
    opens(&lab.client, CLIENT4, SERVER4, &key);
}

#[test]
fn a_knock_in_any_kind_of_frame_is_received_on_a_named_interface() {
    assert_all_frames_are_received("interfaces = [\"lan0\"]");
}

#[test]
fn a_knock_in_any_kind_of_frame_is_received_on_any_interface() {
    assert_all_frames_are_received("interfaces = [\"any\"]");
}

fn assert_all_frames_are_received(server_lines: &str) {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(server_lines, &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let (IpAddr::V4(client4), IpAddr::V4(server4)) = (CLIENT4, SERVER4) else { unreachable!() };
    let (IpAddr::V6(client6), IpAddr::V6(server6)) = (CLIENT6, SERVER6) else { unreachable!() };
    // The server can reply only if it knows the client's hardware address, so contact it first.
    assert!(!lab.client.reaches(SERVER4, 22) && !lab.client.reaches(SERVER6, 22));
    let frames = [
        ("plain", SERVER4, plain(&wire, client4, server4, &key.good())),
        ("IPv6 extension headers", SERVER6, ipv6_with_extensions(&wire, client6, server6, &key.good())),
        ("IPv4 options", SERVER4, ipv4_with_options(&wire, client4, server4, &key.good())),
        ("VLAN tag", SERVER4, tagged(&wire, 5, client4, server4, &key.good())),
    ];
    for (what, server, frame) in frames {
        lab.client.wait_until_closed(server, 22);
        wire.send(&frame);
        assert!(within(SOON, || lab.client.reaches(server, 22)), "{what}");
    }
}

#[test]
fn a_datagram_to_another_port_behind_extension_headers_is_ignored() {
    let Some(lab) = Lab::new() else { return };
    let (IpAddr::V6(client6), IpAddr::V6(server6)) = (CLIENT6, SERVER6) else { unreachable!() };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let mut frame = ipv6_with_extensions(&wire, client6, server6, &site.key("laptop").good());
    let port = frame.windows(2).position(|bytes| bytes == KNOCK_PORT.to_be_bytes()).unwrap();
    frame[port..port + 2].copy_from_slice(&1234_u16.to_be_bytes());
    wire.send(&frame);
    assert!(!within(Duration::from_millis(500), || lab.client.reaches(SERVER6, 22)));
}

#[test]
fn a_knock_on_a_vlan_interface_is_received() {
    let Some(lab) = Lab::new() else { return };
    let vlan = "ip link add link lan0 name lan0.5 type vlan id 5";
    let result = lab.server.output(Command::new("sh").args(["-c", vlan]));
    if String::from_utf8_lossy(&result.stderr).contains("Unknown device type") {
        println!("skipped: this kernel has no VLAN interfaces; another test sends tagged frames");
        return;
    }
    lab.client.ip("link add link eth0 name eth0.5 type vlan id 5");
    for (namespace, name, address) in [(&lab.server, "lan0.5", 1), (&lab.client, "eth0.5", 2)] {
        namespace.ip(&format!("addr add 10.77.5.{address}/24 dev {name}"));
        namespace.ip(&format!("link set {name} up"));
    }
    let [server, client] = [1, 2].map(|host| IpAddr::from([10, 77, 5, host]));
    lab.server.echo(22);
    for interface in ["lan0.5", "lan0", "any"] {
        let site = Site::new(&format!("interfaces = [\"{interface}\"]"), &open_ssh(1));
        let mut daemon = Daemon::start(&lab.server, &site);
        opens(&lab.client, client, server, &site.key("laptop"));
        lab.client.wait_until_closed(server, 22);
        assert!(daemon.terminate().success());
    }
}
