//! `spa-knockd let-in`: grants from the console, with and without a running daemon.

use std::process::Output;
use std::time::Duration;

use crate::net::{Daemon, Lab, NEIGHBOR4, SERVER4, Site, open_ssh, within};

/// Runs `spa-knockd` with these arguments. Returns whether it succeeded, and its output.
fn admin(lab: &Lab, site: &Site, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = lab.server.output(&mut site.admin(args));
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[test]
fn a_grant_from_the_console_is_listed_recorded_kept_after_a_restart_and_revoked() {
    let Some(lab) = Lab::new() else { return };
    lab.server.echo(22);
    for backend in ["nftables", "iptables"] {
        for runs in [true, false] {
            let rest = open_ssh(30).replace("[firewall]", &format!("[firewall]\nbackend = \"{backend}\""));
            let site = Site::new("", &rest);
            let mut daemon = Daemon::start(&lab.server, &site);
            if !runs {
                daemon.kill9();
            }
            let (done, text) = admin(&lab, &site, &["let-in", "10.77.1.2", "--for", "20s"]);
            assert!(done && text.contains("let in to tcp/22 for 20s"), "{backend} {runs}: {text}");
            assert!(lab.neighbor.reaches(SERVER4, 22), "{backend} {runs}");
            if runs {
                assert!(daemon.terminate().success());
            }
            let daemon = Daemon::start(&lab.server, &site);
            daemon.reload();
            let (_, text) = admin(&lab, &site, &["grants"]);
            assert!(text.contains("console") && text.contains("let-in"), "{backend} {runs}: {text}");
            assert!(lab.neighbor.reaches(SERVER4, 22), "{backend} {runs}");
            let granted = site.audit_of("granted");
            assert!(
                granted.iter().any(|record| record["client"] == "console" && record["seconds"] == 20),
                "{backend} {runs}: {granted:?}"
            );
            let (done, text) = admin(&lab, &site, &["revoke", "--all"]);
            assert!(done && text.contains("1 grant revoked"), "{backend} {runs}: {text}");
            assert!(!lab.neighbor.reaches(SERVER4, 22), "{backend} {runs}");
            admin(&lab, &site, &["gate", "off"]);
        }
    }
}

#[test]
fn a_grant_from_the_console_expires_opens_only_the_named_ports_and_needs_an_active_gate() {
    let Some(lab) = Lab::new() else { return };
    let rest = open_ssh(30).replace("[\"tcp/22\"]\n\n[action", "[\"tcp/22\", \"tcp/8000-8010\"]\n\n[action");
    let site = Site::new("", &rest);
    [22, 8000, 8005].into_iter().for_each(|port| lab.server.echo(port));
    let (done, text) = admin(&lab, &site, &["let-in", "10.77.1.2"]);
    assert!(done && text.contains("no port is closed"), "{text}");
    let daemon = Daemon::start(&lab.server, &site);
    drop(daemon);
    let (done, text) = admin(&lab, &site, &["let-in", "10.77.1.2", "--port", "tcp/8000", "--for", "2s"]);
    assert!(done && text.contains("let in to tcp/8000 for 2s"), "{text}");
    assert!(lab.neighbor.reaches(SERVER4, 8000) && !lab.neighbor.reaches(SERVER4, 22));
    assert!(within(Duration::from_secs(6), || !lab.neighbor.reaches(SERVER4, 8000)));
    // Without `--port`: all protected ports, including ranges.
    let (done, text) = admin(&lab, &site, &["let-in", &NEIGHBOR4.to_string()]);
    assert!(done && text.contains("tcp/22, tcp/8000-8010 for 10m"), "{text}");
    assert!([22, 8000, 8005].iter().all(|port| lab.neighbor.reaches(SERVER4, *port)));
    for (args, reason) in [
        (&["let-in", "127.0.0.1"][..], "127.0.0.1"),
        (&["let-in", "10.77.1.2", "--for", "2d"], "not from 1s to 1d"),
        (&["let-in", "somewhere"], "somewhere"),
    ] {
        let (done, text) = admin(&lab, &site, args);
        assert!(!done && text.contains(reason), "{args:?}: {text}");
    }
}
