//! A gateway with `forward`: only connections to the gateway itself are redirected, not those that pass through it.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener};
use std::thread;
use std::time::Duration;

use spa_knock_core::knock::ReplyStatus;

use super::doors::{enable_forwarding, knock_at, site};
use crate::net::{CLIENT4, CLIENT6, Daemon, Lab, NEIGHBOR4, NEIGHBOR6, Namespace, SERVER4, SERVER6};

/// Serves a name to each connection on this port.
fn serve_name(namespace: &Namespace, port: u16, name: &'static str) {
    let listener = namespace.enter(|| TcpListener::bind(("::", port))).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

/// Connects and reads the name that is served there.
fn read_name(namespace: &Namespace, address: IpAddr, port: u16) -> String {
    let mut stream = namespace.connect(address, port).unwrap_or_else(|| panic!("{address} {port}"));
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut name = String::new();
    stream.read_to_string(&mut name).unwrap();
    name
}

#[test]
fn a_connection_that_passes_through_a_gateway_is_not_redirected() {
    for backend in ["nftables", "iptables"] {
        let Some(lab) = Lab::new() else { return };
        enable_forwarding(&lab);
        lab.client.ip("route add default via 10.77.0.1");
        lab.client.ip("-6 route add default via fd77::1");
        let actions = [
            (
                "to-db",
                "forward = { from = \"tcp/443\", to = [\"10.77.1.2:5432\", \"[fd77:0:0:1::2]:5432\"] }\nfor = \"1m\"",
            ),
            ("to-web", "forward = { from = \"tcp/80\", to = \":8080\" }\nfor = \"1m\""),
        ];
        let site = site(&format!("backend = \"{backend}\"\nprotect = [\"tcp/8080\"]"), &actions, "");
        let paths = [(CLIENT4, SERVER4, NEIGHBOR4), (CLIENT6, SERVER6, NEIGHBOR6)];
        for (port, name) in [(443, "transit"), (80, "transit"), (5432, "database")] {
            serve_name(&lab.neighbor, port, name);
        }
        serve_name(&lab.server, 8080, "web");
        let _daemon = Daemon::start(&lab.server, &site);
        for (client, server, neighbor) in paths {
            assert_eq!(read_name(&lab.client, neighbor, 443), "transit", "{backend}");
            for action in ["to-db", "to-web"] {
                assert_eq!(knock_at(&lab.client, client, server, &site, action, ""), ReplyStatus::Granted);
            }
            assert_eq!(read_name(&lab.client, server, 443), "database", "{backend}");
            assert_eq!(read_name(&lab.client, server, 80), "web", "{backend}");
            for port in [443, 80] {
                assert_eq!(read_name(&lab.client, neighbor, port), "transit", "{backend} {port}");
            }
        }
    }
}
