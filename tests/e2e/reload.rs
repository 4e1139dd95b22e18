//! `spa-knockd reload`, and the commands that work while the config has errors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::net::{CLIENT4, Daemon, Lab, SERVER4, Site, ask, open_ssh};

/// Runs `spa-knockd` with these arguments. Returns whether it succeeded, and its output.
fn admin(lab: &Lab, site: &Site, args: &[&str]) -> (bool, String) {
    let Output { status, stdout, stderr } = lab.server.output(&mut site.admin(args));
    (status.success(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[test]
fn reload_fails_with_the_reason_when_the_daemon_keeps_its_old_config() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let (done, text) = admin(&lab, &site, &["reload"]);
    assert!(!done && text.contains("no daemon listens at"), "{text}");
    let _daemon = Daemon::start(&lab.server, &site);
    let (done, text) = admin(&lab, &site, &["reload"]);
    assert!(done, "{text}");

    site.write_config("", &open_ssh(30).replace("open = [", "opne = ["));
    let (done, text) = admin(&lab, &site, &["reload"]);
    assert!(!done && text.contains("action.open-ssh.opne: unknown key"), "{text}");
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());

    let run = "[action.wr]\nrun = [\"/bin/true\"]\n";
    let other = open_ssh(30).replace("[firewall]", "[firewall]\nbackend = \"iptables\"");
    site.write_config("capture = \"udp\"", &format!("{other}{run}"));
    let (done, text) = admin(&lab, &site, &["reload"]);
    assert!(!done, "{text}");
    for name in ["server.capture", "firewall.backend", "`run`", "systemctl restart spa-knockd"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn a_reload_to_a_privileged_port_fails_with_a_hint_and_a_restart_uses_it() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("capture = \"udp\"", &open_ssh(30));
    let mut daemon = Daemon::start(&lab.server, &site);
    site.write_config("capture = \"udp\"\nport = 700", &open_ssh(30));
    let (done, text) = admin(&lab, &site, &["reload"]);
    let hint = "UDP port 700: permission denied\nhint: use a port from 1024, or restart spa-knockd";
    assert!(!done && text.contains(hint), "{text}");
    assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(daemon.terminate().success());
    let daemon = Daemon::start(&lab.server, &site);
    assert!(daemon.log().contains("udp/700"), "{}", daemon.log());
}

#[test]
fn status_grants_and_revoke_need_neither_a_valid_config_nor_valid_keys() {
    let Some(lab) = Lab::new() else { return };
    let good = open_ssh(30);
    let site = Site::new("", &good);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let config = site.path("spa-knockd.toml");
    let control = format!("control = \"{}/control.sock\"", site.folder().display());
    let breaks: [&dyn Fn(); 4] = [
        &|| fs::set_permissions(site.key_path("laptop"), fs::Permissions::from_mode(0o644)).unwrap(),
        &|| site.write_config("", &format!("{good}\nx = 1\n")),
        &|| site.write_config("", &format!("{good}\nx = [\n")),
        // The daemon still listens on the socket that it was started with.
        &|| {
            let text = fs::read_to_string(&config).unwrap();
            fs::write(&config, text.replace(&control, "control = \"/run/other/control.sock\"")).unwrap();
        },
    ];
    for (row, damage) in breaks.into_iter().enumerate() {
        assert!(ask(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good()).is_some());
        assert!(lab.client.reaches(SERVER4, 22));
        damage();
        let (done, text) = admin(&lab, &site, &["status"]);
        assert!(done && text.contains("tcp/22"), "row {row}: {text}");
        let (done, text) = admin(&lab, &site, &["grants"]);
        assert!(done && text.contains("open-ssh"), "row {row}: {text}");
        let (done, text) = admin(&lab, &site, &["revoke", "--all"]);
        assert!(done && text.contains("1 grant revoked"), "row {row}: {text}");
        assert!(!lab.client.reaches(SERVER4, 22), "row {row}");
        site.write_config("", &good);
        fs::set_permissions(site.key_path("laptop"), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn a_reload_warns_about_what_the_next_start_would_refuse() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    let daemon = Daemon::start(&lab.server, &site);
    let (done, text) = admin(&lab, &site, &["reload"]);
    assert!(done && !text.contains("warning"), "{text}");
    assert!(text.contains("reloaded; gate on; tcp/22 closed without a grant"), "{text}");
    fs::set_permissions(site.path("state"), fs::Permissions::from_mode(0o777)).unwrap();
    for (args, message) in [
        (&["reload"][..], "reloaded"),
        (&["client", "add", "phone", "--allow", "open-ssh"], "applied by the running daemon"),
    ] {
        let (done, text) = admin(&lab, &site, args);
        assert!(done && text.contains(message), "{args:?}: {text}");
        assert!(text.contains("warning: the next start will refuse the state directory"), "{args:?}: {text}");
        assert!(text.contains("hint: chmod"), "{args:?}: {text}");
    }
    assert!(daemon.log().contains("the next start will refuse"), "{}", daemon.log());
}
