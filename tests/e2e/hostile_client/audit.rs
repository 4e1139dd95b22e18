//! One key cannot fill the audit log, the daemon's log or the disk.

use std::time::{Duration, Instant};

use serde_json::Value;
use spa_knock_core::knock::{AddressPolicy, Knock, Timestamp};

use crate::net::{
    CLIENT4, Daemon, KNOCK_PORT, Lab, NO_LIMITS, SERVER4, Site, ask_patiently, full, knock, within,
};

const SOON: Duration = Duration::from_secs(20);
const CONFIG: &str = r#"
[firewall]
protect = ["tcp/22"]

[action.open-ssh]
open = ["tcp/22"]
for = "30s"

[client.laptop]
key = "laptop.key"
allow = ["open-ssh"]

[client.evil]
key = "evil.key"
allow = ["open-ssh"]
rate = "1/m"
"#;

/// A different knock each time, of each kind that is refused.
fn refused(number: usize) -> Knock {
    match number % 4 {
        0 => knock("no-such-action"),
        // Over its rate.
        1 => knock("open-ssh"),
        2 => {
            let mut stale = knock("open-ssh");
            stale.timestamp = Timestamp::from_millis(stale.timestamp.as_millis() - 31_000);
            stale
        }
        // For an address that is not its source address.
        _ => Knock { policy: AddressPolicy::Exact, ipv4: Some([10, 9, 9, 9].into()), ..knock("open-ssh") },
    }
}

/// Without the limit in the watcher, so that only the summaries limit the number of lines.
#[test]
fn a_flood_of_refused_knocks_is_summarized_in_a_few_lines_and_every_knock_is_counted() {
    let Some(lab) = Lab::new() else { return };
    let limit = NO_LIMITS;
    let site = Site::new(limit, CONFIG);
    let evil = site.add_key("evil");
    let mut daemon = Daemon::start(&lab.server, &site);
    let laptop = site.key("laptop");
    let (socket, other) = (lab.client.udp(CLIENT4), lab.client.udp(CLIENT4));
    let count = if full() { 100_000 } else { 4_000 };
    let start = Instant::now();
    for number in 0..count {
        socket.send_to(evil.seal(&refused(number)).as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
        if number % (count / 10) == 0 {
            assert!(
                ask_patiently(&other, SERVER4, &laptop.good()).is_some(),
                "another client is granted access"
            );
        }
    }
    let sent = start.elapsed();
    // All knocks have been sent.
    let lines = |site: &Site| site.audit().iter().filter(|record| record["client"] == "evil").count();
    let limit = 16 + 5 * usize::try_from(start.elapsed().as_secs() / 60).unwrap();
    assert!(within(SOON, || lines(&site) >= 4), "{:?}", site.audit());
    assert!(lines(&site) <= limit, "{} lines", lines(&site));
    let log = daemon.log().lines().filter(|line| line.contains("evil")).count();
    assert!(log <= limit, "{log} lines: {}", daemon.log());
    let judged = |site: &Site| {
        let output = site.admin(&["status", "--json"]).output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let results = status["knocks"].as_array().unwrap().iter();
        results
            .filter(|result| result["reason"] != "")
            .filter_map(|result| result["count"].as_u64())
            .sum::<u64>()
    };
    let mut before = judged(&site);
    assert!(within(SOON, || {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, judged(&site)) == before
    }));
    // The daemon writes the remaining records when it stops.
    assert!(daemon.terminate().success());
    let refused =
        site.audit().into_iter().filter(|record| record["client"] == "evil" && record["event"] != "granted");
    let counted: u64 = refused.map(|record| record["count"].as_u64().unwrap_or(1)).sum();
    println!("{count} refused knocks in {sent:?}: {before} reached the keeper, {} lines", lines(&site));
    assert_eq!(counted, before, "every knock is counted once in the log");
    assert!(counted > 100, "{counted}");
}

/// With the limit: knocks that the watcher drops are summarized in one line per minute.
#[test]
fn knocks_over_the_limit_of_a_key_are_summarized_in_one_line_per_minute() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", CONFIG);
    let evil = site.add_key("evil");
    let _daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    for number in 0..1_000 {
        socket.send_to(evil.seal(&refused(number)).as_bytes(), (SERVER4, KNOCK_PORT)).unwrap();
    }
    let throttled = || -> Vec<Value> {
        site.audit_of("refused").into_iter().filter(|record| record["reason"] == "throttled").collect()
    };
    assert!(within(SOON, || throttled().len() == 1), "{:?}", site.audit());
    let line = &throttled()[0];
    assert_eq!((&line["client"], &line["server"]), (&"evil".into(), &"bastion.test".into()), "{line}");
    assert!(
        ask_patiently(&socket, SERVER4, &site.key("laptop").good()).is_some(),
        "another client is granted access"
    );
    assert_eq!(throttled().len(), 1, "the rest is counted");
}
