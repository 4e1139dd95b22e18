//! fwknopd's own faults are not ours: it does not remove about 38 or more rules that end together, and has crashed on
//! packets that only the owner of a key can send.

#[path = "../fwknop/templates.rs"]
mod templates;

use std::time::Instant;

use serde_json::Value;

use crate::fwknop::{SOON, send_bytes, site, status};
use crate::fwknop_packets::{USUAL, now};
use crate::net::{CLIENT4, Daemon, Lab, SERVER4, assert_on_time, open_ssh, within};
use templates::{malformed, plaintext};

#[test]
fn sixty_grants_that_end_together_end_on_time() {
    const FIRST: u16 = 2_001;
    const SECONDS: u64 = 6;
    let Some(lab) = Lab::new() else { return };
    let ports: Vec<u16> = (FIRST..FIRST + 60).collect();
    let site = site(&USUAL.stanza(&format!("FW_ACCESS_TIMEOUT {SECONDS}")), "");
    let legacy = format!("[legacy]\nfwknop = \"{}\"\n", site.path("access.conf").display());
    let protect = format!("[\"tcp/{FIRST}-{}\"]", FIRST + 59);
    site.write_config("", &format!("{}\n{legacy}", open_ssh(2).replacen("[\"tcp/22\"]", &protect, 1)));
    ports.iter().for_each(|port| lab.server.accept_all(*port));
    let daemon = Daemon::start(&lab.server, &site);
    assert!(ports.iter().all(|port| !lab.client.reaches(SERVER4, *port)), "closed without a packet");
    let std::net::IpAddr::V4(address) = CLIENT4 else { unreachable!() };
    let packets: Vec<Vec<u8>> = ports.iter().map(|port| USUAL.access(address, *port)).collect();
    let sent = Instant::now();
    packets.iter().for_each(|packet| send_bytes(&lab, packet));
    let all_open = || ports.iter().all(|port| lab.client.reaches(SERVER4, *port));
    assert!(within(SOON, all_open), "{}", daemon.log());
    let granted = Instant::now();
    std::thread::scope(|scope| {
        let client = &lab.client;
        let waiting: Vec<_> =
            ports.iter().map(|port| scope.spawn(move || client.wait_until_closed(SERVER4, *port))).collect();
        for closed in waiting {
            assert_on_time((sent, granted), closed.join().unwrap(), SECONDS);
        }
    });
    assert_eq!(site.audit_of("granted").len(), 60);
}

#[test]
fn malformed_packets_made_with_valid_keys_open_nothing_and_end_no_process() {
    let Some(lab) = Lab::new() else { return };
    let site =
        site(&USUAL.stanza("FW_ACCESS_TIMEOUT 60"), "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_LOCAL_NAT Y;\n");
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let processes = daemon.children();
    let refused = || {
        let json: Value = serde_json::from_str(&status(&site, &["--json"])).unwrap();
        assert_eq!(json["fwknop"]["accepted"], 0);
        json["fwknop"]["refused"].as_u64().unwrap()
    };
    let mut expected = 0;
    let sha256 = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec();
    for (fault, template, line) in malformed() {
        send_bytes(&lab, &USUAL.seal(&plaintext(template, now(), sha256)));
        if fault != "silent" {
            expected += 1;
            assert!(within(SOON, || refused() == expected), "{line}: {}", daemon.log());
        }
    }
    assert!(expected > 60, "{expected}");
    assert!(!lab.client.reaches(SERVER4, 22));
    assert_eq!(daemon.children(), processes, "no watcher has been replaced");
    assert!(site.audit_of("granted").is_empty());
    let first = &site.audit_of("refused")[0];
    assert_eq!(
        (&first["via"], &first["reason"]),
        (&"fwknop".into(), &"unsupported-format".into()),
        "{first}"
    );
    assert_eq!(first["action"], "stanza-1");
    assert!(daemon.terminate().success());
    // One line for each reason, and their count in the end.
    let records = site.audit_of("refused");
    assert!(records.len() <= 6, "{records:?}");
}
