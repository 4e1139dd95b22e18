//! Life cycle of the daemon: reload, stop, limits and audit records.

use std::time::Instant;

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, SOON, Site, ask, assert_on_time, knock, open_ssh, within};

#[test]
fn a_reload_adds_a_client() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let phone = site.add_key("phone");
    let socket = lab.client.udp(CLIENT4);
    assert_eq!(ask(&socket, SERVER4, &phone.good()), None, "unknown before the reload");

    let added = "[client.phone]\nkey = \"phone.key\"\nallow = [\"open-ssh\"]\n";
    site.write_config("", &(open_ssh(2) + added));
    daemon.reload();
    assert!(ask(&socket, SERVER4, &phone.good()).is_some(), "known after the reload");
    assert!(lab.client.reaches(SERVER4, 22));
    assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_some(), "the old client is still known");
}

#[test]
fn a_reload_with_a_bad_config_keeps_the_old_one() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    site.write_config("", "[firewall]\nprotekt = [\"tcp/22\"]\n");
    daemon.reload();
    assert!(daemon.log().contains("protekt"), "the log names the invalid key");
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_replay_is_refused_after_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(1));
    lab.server.echo(22);
    let daemon = Daemon::start(&lab.server, &site);
    let datagram = site.key("laptop").good();
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &datagram).is_some());
    lab.client.wait_until_closed(SERVER4, 22);
    daemon.reload();
    assert_eq!(ask(&lab.client.udp(CLIENT4), SERVER4, &datagram), None);
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn sigterm_stops_the_daemon_cleanly_and_the_grant_stays_until_it_expires() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(3));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let datagram = site.key("laptop").good();
    let sent = Instant::now();
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &datagram).is_some());
    let granted = Instant::now();
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(lab.client.reaches(SERVER4, 22), "the grant stays");
    assert!(!lab.neighbor.reaches(SERVER4, 22), "the gate stays");
    assert_on_time((sent, granted), lab.client.wait_until_closed(SERVER4, 22), 3);

    let _next = Daemon::start(&lab.server, &site);
    assert_eq!(
        ask(&lab.client.udp(CLIENT4), SERVER4, &datagram),
        None,
        "the replay is refused after a clean restart"
    );
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_client_over_its_rate_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &(open_ssh(5) + "rate = \"2/m\"\n"));
    let _daemon = Daemon::start(&lab.server, &site);
    for expected in [0, 0, 1] {
        let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
        assert_eq!(output.status.code(), Some(expected), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_expired_client_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &(open_ssh(5) + "expires = 2020-01-01\n"));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let output = lab.client.output(&mut site.knock(SERVER4, &["open-ssh"]));
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn an_action_that_a_client_is_not_allowed_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let other = "[action.open-db]\nopen = [\"tcp/5432\"]\nfor = \"5s\"\n";
    let site = Site::new("", &(open_ssh(5) + other));
    let _daemon = Daemon::start(&lab.server, &site);
    for action in ["open-db", "no-such-action"] {
        let output = lab.client.output(&mut site.knock(SERVER4, &[action]));
        assert_eq!(output.status.code(), Some(1), "{action}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_audit_log_has_one_record_for_each_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key("laptop");
    let socket = lab.client.udp(CLIENT4);
    let mut ids = Vec::new();
    for action in ["open-ssh", "no-such-action", "open-ssh"] {
        let datagram = key.seal(&knock(action));
        // Clients resend their datagrams. A duplicate adds no record.
        for _ in 0..2 {
            assert!(ask(&socket, SERVER4, datagram.as_bytes()).is_some());
        }
        ids.push(datagram.nonce()[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    let ids_of = |event: &str| {
        let records = site.audit_of(event);
        records.iter().map(|record| record["knock"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(
        within(SOON, || ids_of("granted").len() == 2 && ids_of("refused").len() == 1),
        "{:?}",
        site.audit()
    );
    assert_eq!(ids_of("granted"), [ids[0].as_str(), &ids[2]]);
    assert_eq!(ids_of("refused"), [ids[1].as_str()]);
    let granted = &site.audit_of("granted")[0];
    assert_eq!(granted["client"], "laptop");
    assert_eq!(granted["action"], "open-ssh");
    assert_eq!(granted["address"], CLIENT4.to_string());
    assert_eq!(granted["seconds"], 5);
    assert_eq!(granted["via"], "udp");
    assert!(granted["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{granted}");
}
