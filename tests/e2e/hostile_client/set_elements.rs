//! The elements of the firewall's sets: no client holds more grants than its limit, and none can fill a set. Each
//! client's grants are known after a restart and are closed when the client is revoked.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use spa_knock_core::knock::{AddressPolicy, Knock, Reply, ReplyStatus};

use crate::grants::{elements, holder, listed, start_with};
use crate::net::{
    CLIENT4, Daemon, Key, Lab, NEIGHBOR4, SERVER4, Site, ask, ask_patiently, full, knock, open_ssh, within,
};

const CONFIG: &str = r#"
[firewall]
protect = ["tcp/22", "tcp/8000-8999"]

[action.open-ssh]
open = ["tcp/22"]
for = "1m"

[action.open-port]
open = "argument"
allow-ports = ["tcp/8000-8999"]
for = "1m"

[client.laptop]
key = "laptop.key"
allow = ["open-ssh"]

[client.thief]
key = "thief.key"
allow = ["open-ssh", "open-port"]
source = ["listed"]
grants = 8
"#;

/// Knocks as a client for an address that is listed in the knock, and returns the reply.
fn knock_for(lab: &Lab, key: &Key, host: u8, action: &str, argument: &str) -> Reply {
    let knock = Knock {
        policy: AddressPolicy::Listed,
        ipv4: Some(Ipv4Addr::new(192, 0, 2, host)),
        argument: argument.parse().unwrap(),
        ..knock(action)
    };
    let datagram = key.seal(&knock);
    let reply = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes()).expect("a reply");
    key.open(&reply, &datagram)
}

fn lines(lab: &Lab, set: &str, comment: &str) -> usize {
    lab.server.nft(&format!("list set inet spa_knock {set}")).matches(comment).count()
}

#[test]
fn a_client_at_its_limit_of_grants_can_renew_them_but_gets_no_more_and_others_are_not_affected() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    let thief = site.add_key("thief");
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    for host in 1..=8 {
        assert_eq!(knock_for(&lab, &thief, host, "open-ssh", "").status, ReplyStatus::Granted, "{host}");
    }
    for host in 9..=12 {
        let reply = knock_for(&lab, &thief, host, "open-ssh", "");
        assert_eq!(reply.status, ReplyStatus::Exhausted, "{}", daemon.log());
        let text = reply.text.as_str();
        assert!(text.contains("too many active grants (at most 8)"), "{text}");
    }
    assert_eq!(knock_for(&lab, &thief, 3, "open-ssh", "").status, ReplyStatus::Granted, "renewed");
    assert_eq!(lines(&lab, "grants4", "\"thief "), 8);
    let refused = site.audit_of("refused");
    assert!(!refused.is_empty());
    assert_eq!(refused[0]["reason"], "grants-exceeded", "{}", refused[0]);
    let status = site.admin(&["status", "--json"]).output().unwrap();
    assert!(String::from_utf8_lossy(&status.stdout).contains("grants-exceeded"));

    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
    let output = site.admin(&["revoke", "--all"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        knock_for(&lab, &thief, 9, "open-ssh", "").status,
        ReplyStatus::Granted,
        "after they have been revoked"
    );
}

#[test]
fn each_overlapping_range_counts_as_one_grant_and_takes_only_a_few_elements_in_the_kernel() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    let thief = site.add_key("thief");
    let _daemon = Daemon::start(&lab.server, &site);
    for first in 0..8 {
        let argument = format!("tcp/{}-{}", 8_000 + first, 8_990 + first);
        assert_eq!(
            knock_for(&lab, &thief, 1, "open-port", &argument).status,
            ReplyStatus::Granted,
            "{argument}"
        );
    }
    assert_eq!(knock_for(&lab, &thief, 1, "open-port", "tcp/8009-8999").status, ReplyStatus::Exhausted);
    assert_eq!(lines(&lab, "grants4", "thief"), 0);
    let pieces = lines(&lab, "range_grants4", "thief");
    assert!((1..=16).contains(&pieces), "{pieces}");
}

#[test]
fn no_client_can_use_the_last_eighth_of_a_set() {
    // Filling a set takes minutes on a busy machine.
    if !full() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    // The client's own limit would allow it.
    let rest = CONFIG.replace("grants = 8", "grants = 32768") + &holder("filler", "open-ssh");
    let site = Site::new("", &rest);
    let (thief, _) = (site.add_key("thief"), site.add_key("filler"));
    lab.server.echo(22);
    let full = elements("filler", "open-ssh", 0..57_330) + &elements("thief", "open-ssh", 60_000..60_020);
    let _daemon = start_with(&lab, &site, &full);
    let datagram = thief.seal(&Knock {
        policy: AddressPolicy::Listed,
        ipv4: Some(Ipv4Addr::new(192, 0, 2, 1)),
        ..knock("open-ssh")
    });
    let socket = lab.client.udp(CLIENT4);
    let reply = (0..10).find_map(|_| ask(&socket, SERVER4, datagram.as_bytes())).expect("a reply");
    assert_eq!(thief.open(&reply, &datagram).status, ReplyStatus::ActionFailed);
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn grants_of_many_clients_are_known_after_a_restart_and_revoked_with_their_client() {
    let Some(lab) = Lab::new() else { return };
    let (clients, each, revoked) = if full() { (1_100, 59, 20) } else { (40, 30, 3) };
    let site = Site::new("", &open_ssh(60));
    fs::create_dir(site.path("clients.d")).unwrap();
    let mut all = String::new();
    for n in 0..clients {
        let name = format!("c{n}");
        site.add_key(&name);
        fs::write(site.path(&format!("clients.d/{name}.toml")), holder(&name, "open-ssh")).unwrap();
        all += &elements(&name, "open-ssh", n * each..(n + 1) * each);
    }
    let daemon = start_with(&lab, &site, &all);
    let total = usize::try_from(clients * each).unwrap();
    assert_eq!(listed(&site).len(), total);
    for n in 0..revoked {
        // A grant that only the kernel knows.
        let foreign = format!(
            "add element inet spa_knock grants4 {{ 198.51.100.{n} . tcp . 22 timeout 1h comment \"c{n} open-ssh\" }}"
        );
        let path = site.path("foreign.nft");
        fs::write(&path, foreign).unwrap();
        lab.server.nft(&format!("-f {}", path.display()));
        let name = format!("c{n}");
        let output = lab.server.output(&mut site.admin(&["client", "revoke", &name]));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let revoked_in_kernel = || lines(&lab, "grants4", &format!("\"{name} ")) == 0;
        assert!(within(Duration::from_secs(10), revoked_in_kernel), "{name}: {}", daemon.log());
    }
    let left = usize::try_from((clients - revoked) * each).unwrap();
    assert_eq!(listed(&site).len(), left);
    assert_eq!(lines(&lab, "grants4", "\"c"), left);
}

#[test]
fn a_full_set_does_not_affect_other_clients() {
    // Filling a set takes minutes on a busy machine.
    if !full() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let rest = CONFIG.replace("grants = 8", "grants = 64") + &holder("filler", "open-ssh");
    let site =
        Site::new("", &rest.replace("allow = [\"open-ssh\"]", "allow = [\"open-ssh\", \"open-port\"]"));
    let (thief, _) = (site.add_key("thief"), site.add_key("filler"));
    lab.server.echo(8_000);
    let daemon = start_with(&lab, &site, &elements("filler", "open-ssh", 0..65_536));
    let socket = lab.neighbor.udp(NEIGHBOR4);
    let flood = |n: u8| {
        let knock = Knock {
            policy: AddressPolicy::Listed,
            ipv4: Some(Ipv4Addr::new(192, 0, 2, n % 12)),
            reply: spa_knock_core::knock::ReplyWanted::No,
            ..knock("open-ssh")
        };
        socket.send_to(thief.seal(&knock).as_bytes(), (SERVER4, crate::net::KNOCK_PORT)).unwrap();
    };
    let laptop = site.key("laptop");
    for round in 0..20_u8 {
        (0..5).for_each(|n| flood(round.wrapping_mul(5).wrapping_add(n)));
        let datagram = laptop.seal(&Knock {
            argument: format!("tcp/8000-{}", 8_001 + u16::from(round)).parse().unwrap(),
            ..knock("open-port")
        });
        let reply = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, datagram.as_bytes()).expect("a reply");
        assert_eq!(laptop.open(&reply, &datagram).status, ReplyStatus::Granted, "{round}: {}", daemon.log());
    }
    assert!(lab.client.reaches(SERVER4, 8_000));
}
