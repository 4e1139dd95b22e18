//! With `capture = "udp"`, the kernel drops datagrams to the knock port that have no live hint. No knock is lost by that.

use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use spa_knock_core::crypto::random;

use crate::net::{
    CLIENT4, CLIENT6, Daemon, KNOCK_PORT, Key, Lab, Mounts, NEIGHBOR4, NO_LIMITS, Namespace, SERVER4,
    SERVER6, Site, Wire, ask, flood, full, open_ssh, plain, within,
};

const SOON: Duration = Duration::from_secs(5);
const UDP: &str = "capture = \"udp\"";

/// Datagrams of unknown clients, of all lengths of a knock.
fn unknown(count: usize) -> Vec<Vec<u8>> {
    let datagram = |n| random::<291>().unwrap()[..228 + n % 64].to_vec();
    (0..count).map(datagram).collect()
}

fn connected(socket: UdpSocket, server: IpAddr) -> UdpSocket {
    socket.connect((server, KNOCK_PORT)).unwrap();
    socket
}

/// The hints in the kernel.
fn listed(server: &Namespace) -> String {
    server.nft("list set inet spa_knock hints")
}

/// The hints of a key in the epochs around now, as nft prints them.
fn hints_of(key: &Key) -> Vec<String> {
    let epoch = now() / 60_000;
    let text = |epoch| format!("0x{:x}", u64::from_be_bytes(key.hint(epoch)));
    (epoch - 1..=epoch + 1).map(text).collect()
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// What the status reports about the capture.
fn capture(site: &Site) -> Value {
    let output = site.admin(&["status", "--json"]).output().unwrap();
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["capture"].take()
}

fn knocks(lab: &Lab, key: &Key) -> bool {
    ask(&lab.client.udp(CLIENT4), SERVER4, &key.good()).is_some()
}

#[test]
fn datagrams_without_a_live_hint_end_in_the_kernel_and_knocks_of_both_families_arrive() {
    // The rules are at ingress, before routing, and on a host that forwards.
    for (lines, forwards) in [("interfaces = [\"lan0\"]", false), ("", false), ("", true)] {
        let Some(lab) = Lab::new() else { return };
        lab.server.echo(22);
        if forwards {
            lab.server.sysctl("ipv4/ip_forward", "1");
        }
        let site = Site::new(&format!("{UDP}\n{lines}"), &open_ssh(20));
        let mut daemon = Daemon::start(&lab.server, &site);
        for (client, server) in [(CLIENT4, SERVER4), (CLIENT6, SERVER6)] {
            let attacker = connected(lab.client.udp(client), server);
            flood(&attacker, &unknown(500), 20_000, 5_000);
            // Too short for a hint, and too long for a knock.
            for length in [0, 7, 8, 227, 292, 1_400] {
                attacker.send(&random::<1_400>().unwrap()[..length]).unwrap();
            }
            assert!(ask(&lab.client.udp(client), server, &site.key("laptop").good()).is_some(), "{lines}");
            assert!(lab.client.reaches(server, 22), "{lines}");
        }
        assert!(daemon.terminate().success());
        let expected = "start: 2 passed on, 0 unknown hint, 0 forged, 0 duplicates, 0 over their key's limit, 0 bad length";
        assert!(within(SOON, || daemon.log().contains(expected)), "{lines} {forwards}: {}", daemon.log());
    }
}

#[test]
fn a_fragmented_datagram_is_filtered_after_it_was_put_together() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&format!("{UDP}\ninterfaces = [\"lan0\"]"), &open_ssh(20));
    let mut daemon = Daemon::start(&lab.server, &site);
    let (IpAddr::V4(client), IpAddr::V4(server)) = (CLIENT4, SERVER4) else { unreachable!() };
    assert!(!lab.client.reaches(SERVER4, 22), "the hosts know each other's hardware address");
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let mut send = |knock: &[u8]| {
        for fragment in halves(&plain(&wire, client, server, knock)) {
            wire.send(&fragment);
        }
    };
    unknown(20).iter().for_each(|datagram| send(datagram));
    send(&site.key("laptop").good());
    assert!(within(SOON, || !site.audit_of("granted").is_empty()), "{}", daemon.log());
    assert!(daemon.terminate().success());
    assert!(within(SOON, || daemon.log().contains("start: 1 passed on, 0 unknown hint")), "{}", daemon.log());
}

/// The two fragments of an Ethernet frame with IPv4 and UDP.
fn halves(frame: &[u8]) -> [Vec<u8>; 2] {
    const IP: usize = 14;
    const PAYLOAD: usize = IP + 20;
    const FIRST: usize = 128;
    let part = |from: usize, to: usize, flags_and_offset: u16| {
        let mut part = [&frame[..PAYLOAD], &frame[PAYLOAD + from..PAYLOAD + to]].concat();
        let length = u16::try_from(20 + to - from).unwrap();
        part[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
        part[IP + 4..IP + 6].copy_from_slice(&random::<2>().unwrap().map(|_| 7));
        part[IP + 6..IP + 8].copy_from_slice(&flags_and_offset.to_be_bytes());
        part[IP + 10..IP + 12].copy_from_slice(&[0, 0]);
        let sum = part[IP..PAYLOAD]
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum::<u32>();
        let sum = !u16::try_from((sum & 0xFFFF) + (sum >> 16)).unwrap();
        part[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
        part
    };
    let end = frame.len() - PAYLOAD;
    [part(0, FIRST, 0x2000), part(FIRST, end, u16::try_from(FIRST / 8).unwrap())]
}

#[test]
fn the_kernel_has_the_hints_of_the_current_keys_without_names() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(UDP, &open_ssh(20));
    let daemon = Daemon::start(&lab.server, &site);
    let laptop = site.key("laptop");
    let has = |key: &Key| hints_of(key).iter().all(|hint| listed(&lab.server).contains(hint.as_str()));
    assert!(has(&laptop), "{}", listed(&lab.server));
    assert!(!listed(&lab.server).contains("laptop"));
    assert!(listed(&lab.server).contains("expires"), "each hint ends by itself");

    let phone = site.add_key("phone");
    assert!(!knocks(&lab, &phone));
    let both = format!("{}\n[client.phone]\nkey = \"phone.key\"\nallow = [\"open-ssh\"]\n", open_ssh(20));
    site.write_config(UDP, &both);
    assert!(site.admin(&["reload"]).output().unwrap().status.success());
    assert!(has(&laptop) && has(&phone));
    assert!(knocks(&lab, &phone), "{}", daemon.log());

    let revoked = site.admin(&["client", "revoke", "phone"]).output().unwrap();
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    assert!(has(&laptop) && !hints_of(&phone).iter().any(|hint| listed(&lab.server).contains(hint.as_str())));
    assert!(knocks(&lab, &laptop));
}

#[test]
fn each_minute_the_kernel_gets_the_next_hints_before_they_are_needed_and_drops_the_old_ones() {
    // In the full run for three minutes, else for a moment.
    let end = now() + if full() { 190_000 } else { 2_000 };
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&format!("{UDP}\n{NO_LIMITS}"), &open_ssh(20));
    let daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    while now() < end {
        assert!(knocks(&lab, &key), "{}", daemon.log());
        let hints = listed(&lab.server).matches("0x").count();
        assert!((3..=6).contains(&hints), "{}", listed(&lab.server));
        thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn hints_that_another_program_removes_come_back_and_so_does_the_whole_table() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(UDP, &open_ssh(20));
    let daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    for line in ["flush set inet spa_knock hints", "flush chain inet spa_knock knock_port", "flush ruleset"] {
        lab.server.nft(line);
        let is_back = || {
            lab.server.try_nft("list table inet spa_knock").is_some_and(|table| {
                hints_of(&key).iter().all(|hint| table.contains(hint.as_str()))
                    && table.matches("@hints accept").count() == 2
            })
        };
        assert!(within(SOON, is_back), "{line}: {}", daemon.log());
        assert!(knocks(&lab, &key), "{line}");
    }
}

#[test]
fn the_port_is_silent_also_after_the_daemon_was_killed_and_a_restart_loses_no_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(UDP, &open_ssh(20));
    let mut daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    assert!(knocks(&lab, &key));
    daemon.kill9();
    let attacker = connected(lab.neighbor.udp(NEIGHBOR4), SERVER4);
    for datagram in unknown(20) {
        // "Connection refused" would be an ICMP error of the server.
        attacker.send(&datagram).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    assert!(hints_of(&key).iter().all(|hint| listed(&lab.server).contains(hint.as_str())));
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(knocks(&lab, &key));
}

#[test]
fn a_gate_that_goes_off_and_on_while_the_daemon_is_busy_has_all_hints_again() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(UDP, &open_ssh(20));
    let daemon = Daemon::start(&lab.server, &site);
    // Both requests are there when the daemon continues, so that it serves them one directly after the other.
    kill(daemon.id(), Signal::SIGSTOP).unwrap();
    let commands = ["off", "on"].map(|state| {
        let command = lab.server.spawn(&mut site.admin(&["gate", state]));
        thread::sleep(Duration::from_millis(300));
        command
    });
    kill(daemon.id(), Signal::SIGCONT).unwrap();
    // The first one finds the gate on again, so its exit code does not matter.
    for mut command in commands {
        command.wait().unwrap();
    }
    assert!(daemon.log().contains("gate: off") && daemon.log().contains("gate: on"), "{}", daemon.log());
    let key = site.key("laptop");
    assert!(knocks(&lab, &key), "{}", listed(&lab.server));
}

#[test]
fn an_nft_that_does_not_know_such_sets_loads_the_rules_without_the_filter() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(UDP, &open_ssh(20));
    lab.server.echo(22);
    let wrapper = site.path("nft");
    let original = site.path("nft.original");
    let nft = String::from_utf8(Command::new("which").arg("nft").output().unwrap().stdout).unwrap();
    let nft = nft.trim_end();
    fs::copy(nft, &original).unwrap();
    let script = format!(
        "#!/bin/sh\ntext=$(cat)\ncase $text in *typeof*) echo 'Error: syntax error, unexpected typeof' >&2; exit 1 ;; esac\nprintf '%s\\n' \"$text\" | {} \"$@\"\n",
        original.display()
    );
    fs::write(&wrapper, script).unwrap();
    for path in [&wrapper, &original] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mounts = Mounts::new();
    mounts.mount(&["--bind", wrapper.to_str().unwrap()], &fs::canonicalize(nft).unwrap());
    let [nsenter, entrance] = mounts.nsenter();
    let mut command = Command::new(&nsenter);
    command.arg(entrance).arg(Daemon::PROGRAM).args(Daemon::arguments(&site));
    let daemon = Daemon::start_command(&lab.server, command);
    assert!(daemon.log().contains("no hint filter: firewall: nft: "), "{}", daemon.log());
    assert!(!lab.client.reaches(SERVER4, 22), "the port is closed");
    assert!(knocks(&lab, &site.key("laptop")));
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn without_room_for_the_hints_the_filter_is_removed_until_a_reload_so_that_knocks_arrive() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(UDP, &open_ssh(20));
    let mut daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.terminate().success());
    // A set that another program has made too small.
    lab.server.nft("flush set inet spa_knock hints");
    let table =
        lab.server.nft("list table inet spa_knock").replace("typeof @th,64,64", "typeof @th,64,64; size 1");
    let small = site.path("small");
    fs::write(&small, format!("delete table inet spa_knock\n{table}")).unwrap();
    lab.server.nft(&format!("-f {}", small.display()));
    let daemon = Daemon::start(&lab.server, &site);
    let removed = || !lab.server.nft("list table inet spa_knock").contains("@hints");
    assert!(within(SOON, removed), "{}", daemon.log());
    assert!(daemon.log().contains("hint filter"), "{}", daemon.log());
    assert!(knocks(&lab, &site.key("laptop")), "{}", daemon.log());

    lab.server.nft("delete table inet spa_knock");
    assert!(within(SOON, || lab.server.nft("list tables").contains("spa_knock")), "{}", daemon.log());
    assert_eq!(capture(&site)["hint_filter"], false, "the table comes back as it was");
    assert!(lab.server.output(&mut site.admin(&["reload"])).status.success());
    assert_eq!(capture(&site)["hint_filter"], true, "{}", daemon.log());
    assert!(knocks(&lab, &site.key("laptop")), "{}", daemon.log());
}

#[test]
fn the_filter_can_be_turned_off_and_other_captures_have_none() {
    let off = open_ssh(20).replace("[firewall]", "[firewall]\nhint-filter = false");
    for (server, rest, shown) in [(UDP, off, Value::from(false)), ("", open_ssh(20), Value::Null)] {
        let Some(lab) = Lab::new() else { return };
        let site = Site::new(server, &rest);
        let _daemon = Daemon::start(&lab.server, &site);
        assert!(!lab.server.nft("list table inet spa_knock").contains("@hints"), "{server}");
        assert_eq!(capture(&site)["hint_filter"], shown, "{server}");
        assert!(knocks(&lab, &site.key("laptop")));
    }
}

#[test]
fn a_socket_receives_knocks_on_interfaces_that_are_not_named_and_the_status_shows_that() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(&format!("{UDP}\ninterfaces = [\"lo\"]"), &open_ssh(20));
    let _daemon = Daemon::start(&lab.server, &site);
    assert!(knocks(&lab, &site.key("laptop")));
    assert_eq!(capture(&site)["interfaces"], Value::from(vec!["any"]));
    assert_eq!(capture(&site)["hint_filter"], true);
    assert!(lab.server.output(&mut site.admin(&["gate", "off"])).status.success());
    assert_eq!(capture(&site)["hint_filter"], false);
}
