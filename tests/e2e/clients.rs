//! Clients are added, get new keys and are revoked while the daemon runs.

use std::process::Output;
use std::time::Duration;

use crate::net::{
    CLIENT4, Daemon, Key, Lab, NEIGHBOR4, SERVER_ID, SERVER4, SOON, Site, ask, limited, open_ssh, within,
};

/// Runs `spa-knockd client` with these arguments.
fn client(site: &Site, args: &[&str]) -> Output {
    site.admin(&[&["client"], args].concat()).output().unwrap()
}

/// Standard error of a command that must have succeeded.
fn messages(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `client add NAME` or `client rotate NAME` and returns the key that it has written.
fn create_key(site: &Site, args: &[&str], file: &str) -> Key {
    let path = site.path(file);
    let text = messages(&client(site, &[args, &["-o", path.to_str().unwrap()]].concat()));
    assert!(text.contains("applied by the running daemon"), "{text}");
    Key::read(&path, SERVER_ID)
}

#[test]
fn a_client_is_known_as_soon_as_it_is_added_and_unknown_as_soon_as_it_is_revoked() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let phone =
        create_key(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &phone.good()).is_some());
    assert!(ask(&lab.neighbor.udp(NEIGHBOR4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22) && lab.neighbor.reaches(SERVER4, 22));

    let text = messages(&client(&site, &["revoke", "phone"]));
    assert!(text.contains("applied by the running daemon"), "{text}");
    assert!(!lab.client.reaches(SERVER4, 22), "its grant is closed");
    assert!(lab.neighbor.reaches(SERVER4, 22), "grants of other clients stay");
    assert_eq!(ask(&socket, SERVER4, &phone.good()), None);
    let [revoked] = &site.audit_of("revoked")[..] else { panic!("{:?}", site.audit()) };
    assert_eq!((&revoked["client"], &revoked["address"]), (&"phone".into(), &CLIENT4.to_string().into()));
}

#[test]
fn a_grant_of_two_clients_ends_when_the_second_client_is_revoked() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    for name in ["phone", "tablet"] {
        let key = create_key(
            &site,
            &["add", name, "--allow", "open-ssh", "--source", "observed"],
            &format!("{name}.key"),
        );
        assert!(ask(&socket, SERVER4, &key.good()).is_some());
    }
    messages(&client(&site, &["revoke", "tablet"]));
    assert!(lab.client.reaches(SERVER4, 22), "the phone still holds it");
    // The next daemon reads from the kernel which client holds each grant, and closes grants that no client is allowed
    // to hold any more.
    assert!(daemon.terminate().success());
    let text = messages(&client(&site, &["revoke", "phone"]));
    assert!(text.contains("no daemon is running"), "{text}");
    assert!(lab.client.reaches(SERVER4, 22), "the command ran outside the network namespace of the gate");
    let _next = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_new_key_and_the_previous_one_are_both_valid_during_the_overlap_and_uses_of_the_previous_one_are_counted()
{
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    let first =
        create_key(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    let second = create_key(&site, &["rotate", "phone"], "phone2.key");
    for key in [&second, &first, &first] {
        assert!(ask(&socket, SERVER4, &key.good()).is_some());
    }
    let shown = client(&site, &["show", "phone"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("used 2 times since"), "{shown}");
    let status = site.admin(&["status"]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("still using a previous key: phone (2x)"), "{status}");
    assert!(within(SOON, || site.audit_of("granted").len() == 3));
    let with_old = site.audit_of("granted").iter().filter(|record| record["key"] == "previous").count();
    assert_eq!(with_old, 2);
    assert!(daemon.log().contains("phone (with its previous key)"), "{}", daemon.log());

    // The oldest of three keys is not valid. Without an overlap, the previous one is not valid either.
    let third = create_key(&site, &["rotate", "phone", "--overlap", "1h"], "phone3.key");
    assert_eq!(ask(&socket, SERVER4, &first.good()), None);
    assert!(ask(&socket, SERVER4, &second.good()).is_some());
    let fourth = create_key(&site, &["rotate", "phone", "--overlap", "0s"], "phone4.key");
    for old in [&second, &third] {
        assert_eq!(ask(&socket, SERVER4, &old.good()), None);
    }
    assert!(ask(&socket, SERVER4, &fourth.good()).is_some());
    let mut keys: Vec<_> =
        std::fs::read_dir(site.path("keys")).unwrap().map(|e| e.unwrap().file_name()).collect();
    keys.sort();
    assert_eq!(keys, ["laptop.key", "phone.4.key"], "no old key is left behind");
}

#[test]
fn a_previous_key_is_refused_after_its_overlap_without_a_reload() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let first =
        create_key(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    let second = create_key(&site, &["rotate", "phone", "--overlap", "2s"], "phone2.key");
    std::thread::sleep(Duration::from_millis(2_100));
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &first.good()).is_some(), "the client gets a reply");
    assert!(within(SOON, || site.audit_of("refused").len() == 1), "{:?}", site.audit());
    assert!(ask(&socket, SERVER4, &second.good()).is_some());
}

#[test]
fn a_change_that_the_daemon_does_not_apply_is_reported_with_the_reason() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    create_key(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    std::fs::write(site.path("keys/laptop.key"), "rubbish").unwrap();
    let output = client(&site, &["rotate", "phone"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("did not load the change") && text.contains("laptop.key"), "{text}");
    let text = messages(&client(&site, &["revoke", "phone"]));
    assert!(text.contains("did not load the change") && text.contains("laptop.key"), "{text}");
    assert!(text.contains("the running daemon refuses its knocks now"), "{text}");
}

#[test]
fn only_root_can_send_requests_to_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let control = site.path("control.sock");
    let mode = std::fs::metadata(&control).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7777, 0o600);
    // Others are refused even if the mode of the socket allows them to connect.
    std::fs::set_permissions(&control, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(site.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (user, is_answered) in [("65534", false), ("0", true)] {
        let output = limited("setpriv")
            .args(["--reuid", user, "--clear-groups", "perl", "-MSocket", "-e", PERL])
            .arg(&control)
            .output()
            .unwrap();
        let reply = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            reply.contains("done"),
            is_answered,
            "{user}: {reply} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Requests a reload and prints the reply.
const PERL: &str = r#"
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
connect($s, sockaddr_un($ARGV[0])) or die "connect: $!";
syswrite($s, "{\"request\":\"reload\"}\n");
sysread($s, my $reply, 1000);
print $reply;
"#;

#[test]
fn a_new_client_must_name_its_address_has_a_rate_limit_and_can_be_changed_and_listed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let phone = create_key(&site, &["add", "phone", "--allow", "open-ssh"], "phone.key");
    let file = std::fs::read_to_string(site.path("clients.d/phone.toml")).unwrap();
    assert!(file.contains("source = [\"exact\"]") && file.contains("rate = \"60/m\""), "{file}");
    let socket = lab.client.udp(CLIENT4);
    let granted = || ask(&socket, SERVER4, &phone.good()).is_some() && !site.audit_of("granted").is_empty();
    assert!(!granted(), "a knock that names no address");
    let text = messages(&client(&site, &["set", "phone", "--source", "exact,observed", "--rate", "none"]));
    assert!(text.contains("applied by the running daemon"), "{text}");
    assert!(granted());
    let output = client(&site, &["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let phone = listed.as_array().unwrap().iter().find(|client| client["name"] == "phone").unwrap();
    assert_eq!((&phone["rate"], &phone["expires"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    messages(&client(&site, &["set", "phone", "--expires", "2099-01-31"]));
    let output = client(&site, &["show", "phone", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(shown["expires"].as_str().unwrap().starts_with("2099-01-31"), "{shown}");
    let output = client(&site, &["set", "phone", "--allow", "no-such-action"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    // With `--if-missing`, adding it again is not an error.
    let again = ["add", "phone", "--allow", "open-ssh", "--if-missing"];
    assert!(messages(&client(&site, &again)).contains("unchanged"));
    assert!(!client(&site, &again[..4]).status.success());
}
