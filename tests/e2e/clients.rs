//! Clients come, change their keys and go while the daemon runs.

use std::process::Output;
use std::time::Duration;

use crate::net::{
    CLIENT4, Daemon, Key, Lab, NEIGHBOUR4, SERVER_ID, SERVER4, Site, ask, limited, open_ssh, within,
};

const SOON: Duration = Duration::from_secs(2);

/// `spa-knockd client` with these words; what it printed.
fn client(site: &Site, words: &[&str]) -> Output {
    site.admin(&[&["client"], words].concat()).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `client add NAME` or `client rotate NAME`; the key that it wrote.
fn made(site: &Site, words: &[&str], file: &str) -> Key {
    let path = site.path(file);
    let told = said(&client(site, &[words, &["-o", path.to_str().unwrap()]].concat()));
    assert!(told.contains("the running daemon has taken this up"), "{told}");
    Key::read(&path, SERVER_ID)
}

#[test]
fn a_client_is_known_as_soon_as_it_is_added_and_a_stranger_as_soon_as_it_is_revoked() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let phone = made(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &phone.good()).is_some());
    assert!(ask(&lab.neighbour.udp(NEIGHBOUR4), SERVER4, &site.key("laptop").good()).is_some());
    assert!(lab.client.reaches(SERVER4, 22) && lab.neighbour.reaches(SERVER4, 22));

    let told = said(&client(&site, &["revoke", "phone"]));
    assert!(told.contains("the running daemon has taken this up"), "{told}");
    assert!(!lab.client.reaches(SERVER4, 22), "its grant is closed");
    assert!(lab.neighbour.reaches(SERVER4, 22), "and nobody else's");
    assert_eq!(ask(&socket, SERVER4, &phone.good()), None);
    let [revoked] = &site.audit_of("revoked")[..] else { panic!("{:?}", site.audit()) };
    assert_eq!((&revoked["client"], &revoked["address"]), (&"phone".into(), &CLIENT4.to_string().into()));
}

#[test]
fn what_two_clients_hold_together_ends_with_the_last_of_them() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    for name in ["phone", "tablet"] {
        let key = made(
            &site,
            &["add", name, "--allow", "open-ssh", "--source", "observed"],
            &format!("{name}.key"),
        );
        assert!(ask(&socket, SERVER4, &key.good()).is_some());
    }
    said(&client(&site, &["revoke", "tablet"]));
    assert!(lab.client.reaches(SERVER4, 22), "the phone still holds it");
    // The next daemon knows from the kernel who holds what, and closes what nobody may hold any more.
    assert!(daemon.terminate().success());
    let told = said(&client(&site, &["revoke", "phone"]));
    assert!(told.contains("no daemon runs"), "{told}");
    assert!(lab.client.reaches(SERVER4, 22), "this command does not run where the gate is");
    let _next = Daemon::start(&lab.server, &site);
    assert!(!lab.client.reaches(SERVER4, 22));
}

#[test]
fn a_rotated_key_and_the_one_before_it_are_both_good_for_a_while_and_uses_of_the_old_one_are_counted() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    let first = made(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    let second = made(&site, &["rotate", "phone"], "phone2.key");
    for key in [&second, &first, &first] {
        assert!(ask(&socket, SERVER4, &key.good()).is_some());
    }
    let shown = client(&site, &["show", "phone"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("knocked with 2 times"), "{shown}");
    let status = site.admin(&["status"]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("with their previous key: phone (2x)"), "{status}");
    assert!(within(SOON, || site.audit_of("granted").len() == 3));
    let with_old = site.audit_of("granted").iter().filter(|record| record["key"] == "previous").count();
    assert_eq!(with_old, 2);
    assert!(daemon.log().contains("phone (with its previous key)"), "{}", daemon.log());

    // Of three keys the oldest is good for nothing; without an overlap the one before neither.
    let third = made(&site, &["rotate", "phone", "--overlap", "1h"], "phone3.key");
    assert_eq!(ask(&socket, SERVER4, &first.good()), None);
    assert!(ask(&socket, SERVER4, &second.good()).is_some());
    let fourth = made(&site, &["rotate", "phone", "--overlap", "0s"], "phone4.key");
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
fn a_previous_key_is_refused_once_its_time_is_over_without_any_reload() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let first = made(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    let second = made(&site, &["rotate", "phone", "--overlap", "2s"], "phone2.key");
    std::thread::sleep(Duration::from_millis(2_100));
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &first.good()).is_some(), "it is told so");
    assert!(within(SOON, || site.audit_of("refused").len() == 1), "{:?}", site.audit());
    assert!(ask(&socket, SERVER4, &second.good()).is_some());
}

#[test]
fn a_change_that_the_daemon_does_not_take_up_is_told_with_its_reason() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    made(&site, &["add", "phone", "--allow", "open-ssh", "--source", "observed"], "phone.key");
    std::fs::write(site.path("keys/laptop.key"), "rubbish").unwrap();
    let output = client(&site, &["rotate", "phone"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("goes on as before") && told.contains("laptop.key"), "{told}");
    let told = said(&client(&site, &["revoke", "phone"]));
    assert!(told.contains("goes on as before") && told.contains("laptop.key"), "{told}");
    assert!(told.contains("the running daemon refuses its knocks now"), "{told}");
}

#[test]
fn nobody_but_root_may_ask_the_daemon() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let control = site.path("control.sock");
    let mode = std::fs::metadata(&control).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7777, 0o600);
    // Even where the file's mode lets them.
    std::fs::set_permissions(&control, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    std::fs::set_permissions(site.folder(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (user, answered) in [("65534", false), ("0", true)] {
        let output = limited("setpriv")
            .args(["--reuid", user, "--clear-groups", "perl", "-MSocket", "-e", PERL])
            .arg(&control)
            .output()
            .unwrap();
        let heard = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(
            heard.contains("done"),
            answered,
            "{user}: {heard} {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Asks for a reload and prints the answer.
const PERL: &str = r#"
socket(my $s, PF_UNIX, SOCK_STREAM, 0) or die;
connect($s, sockaddr_un($ARGV[0])) or die "connect: $!";
syswrite($s, "{\"request\":\"reload\"}\n");
sysread($s, my $answer, 1000);
print $answer;
"#;

#[test]
fn a_new_client_names_its_address_and_knocks_once_a_second_and_can_be_changed_and_listed() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let phone = made(&site, &["add", "phone", "--allow", "open-ssh"], "phone.key");
    let file = std::fs::read_to_string(site.path("clients.d/phone.toml")).unwrap();
    assert!(file.contains("source = [\"exact\"]") && file.contains("rate = \"60/m\""), "{file}");
    let socket = lab.client.udp(CLIENT4);
    let granted = || ask(&socket, SERVER4, &phone.good()).is_some() && !site.audit_of("granted").is_empty();
    assert!(!granted(), "a knock that names no address");
    let told = said(&client(&site, &["set", "phone", "--source", "exact,observed", "--rate", "none"]));
    assert!(told.contains("the running daemon has taken this up"), "{told}");
    assert!(granted());
    let output = client(&site, &["list", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let phone = listed.as_array().unwrap().iter().find(|client| client["name"] == "phone").unwrap();
    assert_eq!((&phone["rate"], &phone["expires"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    said(&client(&site, &["set", "phone", "--expires", "2099-01-31"]));
    let output = client(&site, &["show", "phone", "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(shown["expires"].as_str().unwrap().starts_with("2099-01-31"), "{shown}");
    let output = client(&site, &["set", "phone", "--allow", "open-door"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    // Adding it again can be no error.
    let again = ["add", "phone", "--allow", "open-ssh", "--if-missing"];
    assert!(said(&client(&site, &again)).contains("left alone"));
    assert!(!client(&site, &again[..4]).status.success());
}
