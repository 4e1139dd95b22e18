//! A client that does not know its own address.

use std::collections::BTreeSet;

use crate::net::{Daemon, NatLab, ROUTER4, SERVER4, Site, open_ssh};

/// The distinct knocks in the audit log.
fn knocks(site: &Site) -> BTreeSet<String> {
    site.audit().iter().map(|record| record["knock"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn behind_a_nat_auto_needs_at_most_two_knocks_and_later_only_one() {
    let Some(lab) = NatLab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);

    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.client.reaches(SERVER4, 22), "open for the translated address");
    assert!(lab.router.reaches(SERVER4, 22), "which is the router's address");
    assert!((1..=2).contains(&knocks(&site).len()), "{:?}", site.audit());
    let [granted] = &site.audit_of("granted")[..] else { panic!("{:?}", site.audit()) };
    assert_eq!(granted["address"], ROUTER4.to_string());

    lab.client.wait_until_closed(SERVER4, 22);
    let before = knocks(&site);
    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(lab.client.reaches(SERVER4, 22));
    assert_eq!(knocks(&site).difference(&before).count(), 1, "{:?}", site.audit());
    assert_eq!(site.audit_of("granted").len(), 2);
}
