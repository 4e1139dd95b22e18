//! Knocks that open hundreds or thousands of ports at the same time: all of them or none.

use std::net::{IpAddr, Ipv4Addr};

use std::time::Duration;

use serde_json::Value;
use spa_knock_core::knock::{Knock, ReplyStatus};

use crate::doors::site;
use crate::net::{
    BOTH, CLIENT4, Daemon, Lab, Namespace, SERVER4, Site, ask, ask_patiently, full, knock, within,
};

/// A name of the maximum length, so that the description of a grant in the kernel has its maximum length too.
const MANY: &str = "open-as-many-ports-as-there-are-";
const FIRST: u16 = 10_000;

/// An action that opens this number of ports, each with its own element.
fn ports(count: u16) -> String {
    let ports: Vec<String> = (FIRST..FIRST + count).map(|port| format!("\"tcp/{port}\"")).collect();
    format!("open = [{}]\nfor = \"1h\"", ports.join(", "))
}

/// A site where `laptop` is allowed to open this number of ports with one knock, or only the port `FIRST + 10`.
fn site_with_ports(count: u16) -> Site {
    let one = format!("open = [\"tcp/{}\"]\nfor = \"1h\"", FIRST + 10);
    let protect = format!("protect = [\"tcp/{FIRST}-{}\"]", FIRST + count);
    site(&protect, &[("one", &one), (MANY, &ports(count))], "")
}

/// The active grants, as listed by the daemon.
pub(crate) fn listed(site: &Site) -> Vec<Value> {
    let output = site.admin(&["grants", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// How many seconds the kernel keeps a port open, and the comment with client and action.
fn in_kernel(server: &Namespace, client: IpAddr, port: u16) -> Option<(u64, String)> {
    let set = if client.is_ipv4() { "grants4" } else { "grants6" };
    // Some versions of nft print text here, even if JSON is requested.
    let text = server.try_nft(&format!("get element inet spa_knock {set} {{ {client} . tcp . {port} }}"))?;
    let (_, text) = text.split_once(" expires ").unwrap();
    let (left, comment) = text.split_once(" comment \"").unwrap();
    Some((seconds(left), comment.split_once('"').unwrap().0.to_owned()))
}

/// Parses a time such as `59m59s996ms` into whole seconds.
fn seconds(time: &str) -> u64 {
    let time = time.split_once("ms").map_or(time, |(time, _)| time.trim_end_matches(char::is_numeric));
    let parts = time.split_inclusive(char::is_alphabetic).map(|part| {
        let (number, unit) = part.split_at(part.len() - 1);
        number.parse::<u64>().expect(time)
            * match unit {
                "h" => 3_600,
                "m" => 60,
                _ => 1,
            }
    });
    parts.sum()
}

/// Config of a client whose grants fill the set.
pub(crate) fn holder(name: &str, action: &str) -> String {
    format!("[client.{name}]\nkey = \"{name}.key\"\nallow = [\"{action}\"]\n")
}

/// Elements of `grants4`, as the daemon adds them for an action of a client.
pub(crate) fn elements(client: &str, action: &str, addresses: impl Iterator<Item = u32>) -> String {
    let element = |n| {
        format!("{} . tcp . 22 timeout 1h comment \"{client} {action}\"", Ipv4Addr::from(0x0A00_0000 + n))
    };
    let elements: Vec<String> = addresses.map(element).collect();
    format!("add element inet spa_knock grants4 {{ {} }}\n", elements.join(", "))
}

/// Starts a daemon that finds these elements in its table, as if a daemon had been killed before.
pub(crate) fn start_with(lab: &Lab, site: &Site, elements: &str) -> Daemon {
    let mut before = Daemon::start(&lab.server, site);
    before.kill9();
    let path = site.path("elements.nft");
    std::fs::write(&path, elements).unwrap();
    lab.server.nft(&format!("-f {}", path.display()));
    let daemon = Daemon::launch(&lab.server, Daemon::command(site));
    // Tens of thousands of elements take a while on a busy machine.
    assert!(within(Duration::from_secs(60), || daemon.has_logged("ready")), "{}", daemon.log());
    std::thread::sleep(Duration::from_millis(5));
    daemon
}

#[test]
fn a_knock_opens_no_port_if_the_last_ones_do_not_fit_and_open_ports_stay_open() {
    const PORTS: u16 = 12;
    // Filling a set takes minutes on a busy machine.
    if !full() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = site_with_ports(PORTS);
    for name in ["filler", "other"] {
        site.add_key(name);
    }
    let path = site.path("spa-knockd.toml");
    let config = std::fs::read_to_string(&path).unwrap() + &holder("filler", "one");
    std::fs::write(&path, config.clone() + &holder("other", "one")).unwrap();
    for port in [FIRST, FIRST + 10, FIRST + PORTS - 1] {
        lab.server.echo(port);
    }
    // One of the ports is already open, and there is room for all others except one.
    let room = u32::from(PORTS) - 1;
    let full = elements("filler", "one", 2 + room..65_536) + &elements("other", "one", 0..2);
    let daemon = start_with(&lab, &site, &full);
    let open = |action: &str| {
        let laptop = site.key("laptop");
        let datagram = laptop.seal(&knock(action));
        let socket = lab.client.udp(CLIENT4);
        let reply = (0..10).find_map(|_| ask(&socket, SERVER4, datagram.as_bytes())).expect("a reply");
        laptop.open(&reply, &datagram).status
    };
    assert_eq!(open("one"), ReplyStatus::Granted);
    let older = || in_kernel(&lab.server, CLIENT4, FIRST + 10);
    assert_eq!(open(MANY), ReplyStatus::ActionFailed);

    let failed = site.audit_of("failed");
    assert_eq!(failed.len(), 1, "{}", daemon.log());
    assert!(failed[0]["detail"].as_str().unwrap().contains("the grant set is full"), "{}", failed[0]);
    let set = lab.server.nft("list set inet spa_knock grants4");
    assert_eq!(set.matches("\"laptop ").count(), 1, "of the grants from knocks, only the older one");
    assert!(!lab.client.reaches(SERVER4, FIRST) && !lab.client.reaches(SERVER4, FIRST + PORTS - 1));
    let (left, comment) = older().expect("the older grant");
    assert!(left > 3_000 && comment == "laptop one", "{left} {comment}");
    assert!(lab.client.reaches(SERVER4, FIRST + 10));

    // The failed knock has left nothing behind that would make the next one fail.
    std::fs::write(&path, config).unwrap();
    daemon.reload();
    assert_eq!(open("one"), ReplyStatus::Granted);
    assert_eq!(open(MANY), ReplyStatus::Granted, "{}", daemon.log());
    assert!(lab.client.reaches(SERVER4, FIRST) && lab.client.reaches(SERVER4, FIRST + PORTS - 1));
}

#[test]
fn thousands_of_ports_of_one_knock_are_opened_renewed_listed_and_closed_together() {
    const PORTS: u16 = 3_000;
    let Some(lab) = Lab::new() else { return };
    let site = site_with_ports(PORTS);
    for port in [FIRST, FIRST + PORTS - 1] {
        lab.server.echo(port);
    }
    let daemon = Daemon::start(&lab.server, &site);
    let laptop = site.key("laptop");
    for (open, (from, to)) in (1..).zip(BOTH) {
        let for_seconds = |seconds: u32| {
            let datagram = laptop.seal(&Knock { seconds, ..knock(MANY) });
            let reply = ask_patiently(&lab.client.udp(from), to, datagram.as_bytes()).expect("a reply");
            assert_eq!(laptop.open(&reply, &datagram).status, ReplyStatus::Granted, "{}", daemon.log());
            [FIRST, FIRST + 1_500, FIRST + PORTS - 1]
                .map(|port| in_kernel(&lab.server, from, port).expect("open").0)
        };
        assert!(!lab.client.reaches(to, FIRST));
        assert!(for_seconds(1_000).iter().all(|left| (900..=1_000).contains(left)));
        assert!(lab.client.reaches(to, FIRST) && lab.client.reaches(to, FIRST + PORTS - 1));
        assert!(for_seconds(2_000).iter().all(|left| *left > 1_900), "renewed");
        assert!(for_seconds(500).iter().all(|left| *left > 1_900), "and not shortened");
        assert_eq!(listed(&site).len(), open * usize::from(PORTS));
    }
    let output = site.admin(&["revoke", "--all"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(listed(&site).is_empty());
    for (from, to) in BOTH {
        for port in [FIRST, FIRST + 1_500, FIRST + PORTS - 1] {
            assert_eq!(in_kernel(&lab.server, from, port), None, "{port}");
        }
        assert!(!lab.client.reaches(to, FIRST) && !lab.client.reaches(to, FIRST + PORTS - 1));
    }
}
