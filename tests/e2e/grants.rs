//! Knocks that open hundreds and thousands of doors at once: all of them or none.

use std::net::{IpAddr, Ipv4Addr};

use std::time::Duration;

use serde_json::Value;
use spa_knock_core::knock::{Knock, ReplyStatus};

use crate::doors::site;
use crate::net::{
    BOTH, CLIENT4, Daemon, Lab, Namespace, SERVER4, Site, ask, ask_patiently, full, knock, within,
};

/// As long as a name may be: all that the kernel is told of a grant is then as long as it can get.
const MANY: &str = "open-as-many-doors-as-there-are-";
const FIRST: u16 = 10_000;

/// `open` with so many ports, each an element of its own.
fn ports(count: u16) -> String {
    let ports: Vec<String> = (FIRST..FIRST + count).map(|port| format!("\"tcp/{port}\"")).collect();
    format!("open = [{}]\nfor = \"1h\"", ports.join(", "))
}

/// A site where `laptop` may open so many doors at once, or the tenth of them alone.
fn doors(count: u16) -> Site {
    let one = format!("open = [\"tcp/{}\"]\nfor = \"1h\"", FIRST + 10);
    let protect = format!("protect = [\"tcp/{FIRST}-{}\"]", FIRST + count);
    site(&protect, &[("one", &one), (MANY, &ports(count))], "")
}

/// The live grants, as the daemon tells them.
pub(crate) fn listed(site: &Site) -> Vec<Value> {
    let output = site.admin(&["grants", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// For how long the kernel keeps a door open, and by which knock.
fn in_kernel(server: &Namespace, client: IpAddr, port: u16) -> Option<(u64, String)> {
    let set = if client.is_ipv4() { "grants4" } else { "grants6" };
    // Some versions of nft print text here, whatever they are asked for.
    let told = server.try_nft(&format!("get element inet spa_knock {set} {{ {client} . tcp . {port} }}"))?;
    let (_, told) = told.split_once(" expires ").unwrap();
    let (left, comment) = told.split_once(" comment \"").unwrap();
    Some((seconds(left), comment.split_once('"').unwrap().0.to_owned()))
}

/// Whole seconds of a time like `59m59s996ms`.
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

/// Lines of a config: a client that holds what fills the set.
pub(crate) fn holder(name: &str, action: &str) -> String {
    format!("[client.{name}]\nkey = \"{name}.key\"\nallow = [\"{action}\"]\n")
}

/// Elements of `grants4`, as the daemon makes them for an action of a client.
pub(crate) fn elements(client: &str, action: &str, addresses: impl Iterator<Item = u32>) -> String {
    let element = |n| {
        format!("{} . tcp . 22 timeout 1h comment \"{client} {action}\"", Ipv4Addr::from(0x0A00_0000 + n))
    };
    let elements: Vec<String> = addresses.map(element).collect();
    format!("add element inet spa_knock grants4 {{ {} }}\n", elements.join(", "))
}

/// Starts a daemon that finds these elements in its table, as one that was killed left them.
pub(crate) fn start_with(lab: &Lab, site: &Site, elements: &str) -> Daemon {
    let mut before = Daemon::start(&lab.server, site);
    before.kill9();
    let path = site.path("elements.nft");
    std::fs::write(&path, elements).unwrap();
    lab.server.nft(&format!("-f {}", path.display()));
    let daemon = Daemon::launch(&lab.server, Daemon::command(site));
    // Tens of thousands of them take a while on a machine that has other things to do.
    assert!(within(Duration::from_secs(60), || daemon.says("ready")), "{}", daemon.log());
    std::thread::sleep(Duration::from_millis(5));
    daemon
}

#[test]
fn of_a_knock_whose_last_doors_find_no_room_none_opens_and_what_was_open_stays() {
    const DOORS: u16 = 12;
    // A whole set takes minutes on a busy machine.
    if !full() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = doors(DOORS);
    for name in ["filler", "other"] {
        site.add_key(name);
    }
    let path = site.path("spa-knockd.toml");
    let config = std::fs::read_to_string(&path).unwrap() + &holder("filler", "one");
    std::fs::write(&path, config.clone() + &holder("other", "one")).unwrap();
    for port in [FIRST, FIRST + 10, FIRST + DOORS - 1] {
        lab.server.echo(port);
    }
    // One of the doors is open already; one too few has room.
    let room = u32::from(DOORS) - 1;
    let full = elements("filler", "one", 2 + room..65_536) + &elements("other", "one", 0..2);
    let daemon = start_with(&lab, &site, &full);
    let open = |action: &str| {
        let laptop = site.key("laptop");
        let datagram = laptop.seal(&knock(action));
        let socket = lab.client.udp(CLIENT4);
        let answer = (0..10).find_map(|_| ask(&socket, SERVER4, datagram.as_bytes())).expect("an answer");
        laptop.open(&answer, &datagram).status
    };
    assert_eq!(open("one"), ReplyStatus::Granted);
    let older = || in_kernel(&lab.server, CLIENT4, FIRST + 10);
    assert_eq!(open(MANY), ReplyStatus::ActionFailed);

    let failed = site.audit_of("failed");
    assert_eq!(failed.len(), 1, "{}", daemon.log());
    assert!(failed[0]["detail"].as_str().unwrap().contains("the set of grants is full"), "{}", failed[0]);
    let set = lab.server.nft("list set inet spa_knock grants4");
    assert_eq!(set.matches("\"laptop ").count(), 1, "of those by knocks, the older one alone");
    assert!(!lab.client.reaches(SERVER4, FIRST) && !lab.client.reaches(SERVER4, FIRST + DOORS - 1));
    let (left, comment) = older().expect("what was open before");
    assert!(left > 3_000 && comment == "laptop one", "{left} {comment}");
    assert!(lab.client.reaches(SERVER4, FIRST + 10));

    // What was not opened left nothing behind that the next knock would stumble over.
    std::fs::write(&path, config).unwrap();
    daemon.reload();
    assert_eq!(open("one"), ReplyStatus::Granted);
    assert_eq!(open(MANY), ReplyStatus::Granted, "{}", daemon.log());
    assert!(lab.client.reaches(SERVER4, FIRST) && lab.client.reaches(SERVER4, FIRST + DOORS - 1));
}

#[test]
fn thousands_of_doors_of_one_knock_open_and_are_renewed_listed_and_closed_together() {
    const DOORS: u16 = 3_000;
    let Some(lab) = Lab::new() else { return };
    let site = doors(DOORS);
    for port in [FIRST, FIRST + DOORS - 1] {
        lab.server.echo(port);
    }
    let daemon = Daemon::start(&lab.server, &site);
    let laptop = site.key("laptop");
    for (open, (from, to)) in (1..).zip(BOTH) {
        let for_seconds = |seconds: u32| {
            let datagram = laptop.seal(&Knock { seconds, ..knock(MANY) });
            let answer = ask_patiently(&lab.client.udp(from), to, datagram.as_bytes()).expect("an answer");
            assert_eq!(laptop.open(&answer, &datagram).status, ReplyStatus::Granted, "{}", daemon.log());
            [FIRST, FIRST + 1_500, FIRST + DOORS - 1]
                .map(|port| in_kernel(&lab.server, from, port).expect("open").0)
        };
        assert!(!lab.client.reaches(to, FIRST));
        assert!(for_seconds(1_000).iter().all(|left| (900..=1_000).contains(left)));
        assert!(lab.client.reaches(to, FIRST) && lab.client.reaches(to, FIRST + DOORS - 1));
        assert!(for_seconds(2_000).iter().all(|left| *left > 1_900), "renewed");
        assert!(for_seconds(500).iter().all(|left| *left > 1_900), "and not shortened");
        assert_eq!(listed(&site).len(), open * usize::from(DOORS));
    }
    let output = site.admin(&["revoke", "--all"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(listed(&site).is_empty());
    for (from, to) in BOTH {
        for port in [FIRST, FIRST + 1_500, FIRST + DOORS - 1] {
            assert_eq!(in_kernel(&lab.server, from, port), None, "{port}");
        }
        assert!(!lab.client.reaches(to, FIRST) && !lab.client.reaches(to, FIRST + DOORS - 1));
    }
}
