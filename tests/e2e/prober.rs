//! A host tries to connect all the time: an unauthenticated one must never succeed, whatever happens to the daemon, and
//! a client with a grant must never fail.

use std::thread;
use std::time::Duration;

use crate::net::{CLIENT4, Daemon, Lab, NO_LIMITS, Prober, SERVER4, Site, ask, full, knock, open_ssh};

#[test]
fn no_connection_succeeds_without_a_grant_while_the_daemon_starts_reloads_stops_or_is_killed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(60));
    lab.server.accept_all(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let prober = Prober::start(&lab.neighbor, SERVER4, 22, 500);
    let rounds = if full() { 20 } else { 2 };
    for _ in 0..rounds {
        daemon.reload();
        assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        assert!(daemon.terminate().success());
        daemon = Daemon::start(&lab.server, &site);
        daemon.kill9();
        // A table of another version is replaced as a whole.
        lab.server.nft("delete chain inet spa_knock schema-6");
        daemon = Daemon::start(&lab.server, &site);
        assert!(lab.client.reaches(SERVER4, 22), "the grant is still active");
    }
    let probes = prober.stop();
    println!("{} probes in {rounds} rounds, {} succeeded", probes.unanswered.len(), probes.accepted);
    assert_eq!(probes.accepted, 0);
    assert!(probes.unanswered.len() > 100 * rounds, "the prober sent probes");
}

#[test]
fn a_client_that_renews_its_grant_is_never_locked_out_during_the_renewal() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.accept_all(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let (key, socket) = (site.key("laptop"), lab.client.udp(CLIENT4));
    let rounds = if full() { 10 } else { 2 };
    assert!(ask(&socket, SERVER4, &key.good()).is_some());
    let prober = Prober::start(&lab.client, SERVER4, 22, 1_000);
    for _ in 0..rounds {
        thread::sleep(Duration::from_secs(2));
        assert!(ask(&socket, SERVER4, &key.good()).is_some(), "renewed one second before the end");
    }
    thread::sleep(Duration::from_millis(2_500));
    let probes = prober.stop();
    println!("{} probes over {rounds} renewals, {} unanswered", probes.accepted, probes.unanswered.len());
    assert!(probes.unanswered.is_empty(), "{:?}", probes.unanswered);
    assert!(probes.accepted > 2_000, "{}", probes.accepted);
}

#[test]
fn knocks_change_no_byte_of_other_firewall_tables() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new(NO_LIMITS, &open_ssh(5));
    for line in [
        "add table inet other",
        "add set inet other banned { type ipv4_addr ; flags timeout ; }",
        "add chain inet other in { type filter hook input priority 10 ; policy accept ; }",
        "add table ip nat",
        "add chain ip nat post { type nat hook postrouting priority 100 ; }",
    ] {
        lab.server.nft(line);
    }
    for port in 1_000..1_050 {
        lab.server.nft(&format!("add rule inet other in tcp dport {port} ip saddr @banned drop"));
    }
    let others = || {
        let whole = lab.server.nft("list ruleset");
        let tables = whole.split("\ntable ").map(|table| table.trim_end().to_owned());
        tables.filter(|table| !table.contains("inet spa_knock {")).collect::<Vec<_>>()
    };
    let before = others();
    let mut daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let socket = lab.client.udp(CLIENT4);
    let knocks = if full() { 1_000 } else { 100 };
    for n in 0..knocks {
        let datagram = key.seal(&knock(if n % 10 == 0 { "no-such-action" } else { "open-ssh" }));
        assert!(ask(&socket, SERVER4, datagram.as_bytes()).is_some());
    }
    assert_eq!(others(), before);
    assert!(daemon.terminate().success());
    assert_eq!(others(), before);
    println!("{knocks} knocks with 50 rules of another table: the other table has not changed");
}
