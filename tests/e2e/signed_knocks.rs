//! Clients with a public key: their SSH key opens ports, and the pair secret alone opens nothing, consumes nothing and
//! keeps no one out.

#[path = "../../core/tests/ssh/mod.rs"]
mod ssh;

mod evidence;
mod floods;
mod openssh;

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;
use std::{fs, path::Path};

use spa_knock_core::crypto::ssh::PublicKeyKind;
use spa_knock_core::crypto::{ClientKeys, KeyFile, KeyOwner, KeySet, PairSecret};
use spa_knock_core::knock::{Argument, Knock, Reply, ReplyStatus};
use spa_knock_core::wire::{Datagram, open_reply};
use ssh::{KINDS, PRESENT, SshKey};

use crate::net::{CLIENT4, Daemon, Lab, NEIGHBOR4, SERVER_ID, SERVER4, Site, ask, knock};

const ACTIONS: &str = r#"
[firewall]
protect = ["tcp/22"]

[action.open-ssh]
open = ["tcp/22"]
for = "30s"

[action.open-port]
open = "argument"
allow-ports = ["tcp/8000-8999"]
for = "30s"

[action.close-ssh]
close = "open-ssh"

[action.stamp]
run = ["/bin/touch", "STAMP"]
"#;
const ALLOW: &str = r#"allow = ["open-ssh", "open-port", "close-ssh", "stamp"]"#;

/// A site with a client `laptop` that must sign with `key`, and a client `old` without a public key.
fn site(key: &SshKey, lines: &str) -> Site {
    let site = Site::new("", "");
    site.add_key("old");
    write_config(&site, &format!("public_key = \"{}\"\n{lines}", key.public));
    site
}

fn write_config(site: &Site, lines: &str) {
    let actions = ACTIONS.replace("STAMP", site.path("stamp").to_str().unwrap());
    let clients = format!(
        "[client.laptop]\nkey = \"laptop.key\"\n{ALLOW}\n{lines}\n[client.old]\nkey = \"old.key\"\n{ALLOW}"
    );
    site.write_config("", &format!("{actions}\n{clients}\n"));
}

fn pair(site: &Site, name: &str) -> PairSecret {
    let Ok(file) = KeyFile::parse(&fs::read_to_string(site.key_path(name)).unwrap()) else {
        panic!("no key")
    };
    let KeyOwner::Pair { secret, .. } = file.holder else { panic!("no pair secret") };
    secret
}

fn key_set(site: &Site) -> KeySet {
    pair(site, "laptop").signed_keys(&SERVER_ID.parse().unwrap())
}

fn keys(site: &Site) -> ClientKeys {
    key_set(site).client()
}

/// Sends a knock and returns the server's reply, if there is one.
fn reply(socket: &UdpSocket, datagram: &Datagram, keys: &ClientKeys) -> Option<Reply> {
    let bytes = ask(socket, SERVER4, datagram.as_bytes())?;
    Some(open_reply(&bytes, &keys.reply, datagram.nonce()).expect("a reply to this knock"))
}

fn status_of(socket: &UdpSocket, key: &SshKey, keys: &ClientKeys, wanted: &Knock) -> (ReplyStatus, String) {
    let reply = reply(socket, &key.seal(wanted, keys), keys).expect("a reply");
    (reply.status, reply.text.as_str().to_owned())
}

fn granted(lab: &Lab, from: IpAddr, key: &SshKey, keys: &ClientKeys) -> bool {
    let socket = if from == CLIENT4 { lab.client.udp(from) } else { lab.neighbor.udp(from) };
    // Without a token, a knock gets no reply.
    let reply = reply(&socket, &key.seal(&knock("open-ssh"), keys), keys);
    reply.is_some_and(|reply| reply.status == ReplyStatus::Granted)
}

#[test]
fn a_key_of_each_kind_gets_a_grant() {
    let Some(lab) = Lab::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        // The keys of ssh-keygen; OpenSSH has no FIDO device here, so those keys are made by the test.
        let key = match kind {
            PublicKeyKind::Ed25519 => openssh::generate(folder.path(), "ed25519"),
            PublicKeyKind::EcdsaP256 => openssh::generate(folder.path(), "ecdsa"),
            kind => SshKey::new(kind),
        };
        let site = site(&key, "");
        let mut daemon = Daemon::start(&lab.server, &site);
        assert!(granted(&lab, CLIENT4, &key, &keys(&site)), "{kind:?}");
        let wrong = status_of(&lab.client.udp(CLIENT4), &SshKey::new(kind), &keys(&site), &knock("open-ssh"));
        assert_eq!(wrong, (ReplyStatus::SignatureRefused, "signature".to_owned()));
        assert_eq!(site.audit_of("granted").len(), 1);
        assert!(daemon.terminate().success());
    }
}

#[test]
fn a_thief_of_the_pair_secret_opens_nothing_runs_nothing_and_consumes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let (key, thief) = (SshKey::new(KINDS[0]), SshKey::new(KINDS[0]));
    let site = site(&key, "uses = 5");
    let daemon = Daemon::start(&lab.server, &site);
    let keys = keys(&site);
    assert!(granted(&lab, CLIENT4, &key, &keys));
    let state = || fs::read(site.path("state/replay.journal")).unwrap();
    let (journal, grants) = (state(), stdout(&site, &lab, &["grants"]));
    let attacker = lab.neighbor.udp(NEIGHBOR4);
    let with = |action: &str, argument: &str| Knock {
        argument: argument.parse::<Argument>().unwrap(),
        ..knock(action)
    };
    for wanted in
        [with("open-ssh", ""), with("open-port", "tcp/8443"), with("close-ssh", ""), with("stamp", "")]
    {
        for _ in 0..5 {
            let refused = status_of(&attacker, &thief, &keys, &wanted);
            assert_eq!(refused, (ReplyStatus::SignatureRefused, "signature".to_owned()));
        }
    }
    thread::sleep(Duration::from_millis(200));
    assert!(!site.path("stamp").exists());
    assert_eq!(state(), journal, "nothing is recorded");
    assert!(stdout(&site, &lab, &["client", "show", "laptop"]).contains("uses: 1 of 5 used"));
    let active = |text: &str| text.lines().filter(|line| line.contains("10.77.")).count();
    assert_eq!(active(&stdout(&site, &lab, &["grants"])), active(&grants));
    assert_eq!(active(&grants), 1);
    assert!(granted(&lab, CLIENT4, &key, &keys), "the client itself is not affected");

    let refused = site.audit_of("refused");
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((&refused[0]["reason"], &refused[0]["client"]), (&"signature".into(), &"laptop".into()));
    assert_eq!(refused[0]["action"], serde_json::Value::Null, "the action of an unsigned body is not read");
    let status = stdout(&site, &lab, &["status"]);
    let hint = "refused for their SSH signature: laptop (20 knocks; hint: spa-knockd client rotate laptop --overlap 0s -c ";
    assert!(status.contains(hint), "{status}");
    stdout(&site, &lab, &["client", "revoke", "laptop"]);
    let status = stdout(&site, &lab, &["status"]);
    assert!(!status.contains("refused for their SSH signature"), "{status}");
    drop(daemon);
}

fn stdout(site: &Site, lab: &Lab, args: &[&str]) -> String {
    let output = lab.server.output(&mut site.admin(args));
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_knock_of_the_other_version_gets_no_reply() {
    let Some(lab) = Lab::new() else { return };
    let key = SshKey::new(KINDS[0]);
    let site = site(&key, "");
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    // The same pair secret in version 1, and that of a client without a public key in version 2.
    assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_none());
    let of_old = pair(&site, "old").signed_keys(&SERVER_ID.parse().unwrap()).client();
    assert!(reply(&socket, &key.seal(&knock("open-ssh"), &of_old), &of_old).is_none());
    assert!(site.audit().is_empty());
    let status: serde_json::Value =
        serde_json::from_str(&stdout(&site, &lab, &["status", "--json"])).unwrap();
    assert_eq!(status["datagrams"]["unknown_hint"], 2, "{status}");
    assert!(ask(&socket, SERVER4, &site.key("old").good()).is_some());
    drop(daemon);
}

#[test]
fn a_public_key_that_is_added_makes_the_old_key_invalid_immediately() {
    let Some(lab) = Lab::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let key = openssh::generate(folder.path(), "ed25519");
    let site = Site::new("", "");
    site.add_key("old");
    write_config(&site, "");
    let daemon = Daemon::start(&lab.server, &site);
    let socket = lab.client.udp(CLIENT4);
    assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_some());

    write_config(&site, &format!("public_key = \"{}\"", key.public));
    daemon.reload();
    assert!(ask(&socket, SERVER4, &site.key("laptop").good()).is_none());
    assert!(granted(&lab, CLIENT4, &key, &keys(&site)));
    let shown = stdout(&site, &lab, &["client", "show", "laptop"]);
    let line = format!("ssh key: {} (ED25519)", openssh::fingerprint(folder.path(), "ed25519"));
    assert!(shown.contains(&line), "{shown}\n{line}");
    let listed = stdout(&site, &lab, &["client", "list"]);
    assert!(listed.contains(&openssh::fingerprint(folder.path(), "ed25519")), "{listed}");
    drop(daemon);
}

#[test]
fn the_counter_of_a_device_survives_kill_and_a_pin_is_required_if_configured() {
    let Some(lab) = Lab::new() else { return };
    let key = SshKey::new(KINDS[2]);
    let site = site(&key, "touch = \"pin\"");
    let keys = keys(&site);
    let verified = PRESENT | 4;
    let send = |flags, counter| {
        let datagram = key.seal_as(&knock("open-ssh"), &keys, flags, counter);
        let reply = reply(&lab.client.udp(CLIENT4), &datagram, &keys).expect("a reply");
        (reply.status, reply.text.as_str().to_owned())
    };
    let refused = |text: &str| (ReplyStatus::SignatureRefused, text.to_owned());
    let mut daemon = Daemon::start(&lab.server, &site);
    assert_eq!(send(PRESENT, 10), refused("pin"));
    assert_eq!(send(4, 10), refused("presence"));
    assert_eq!(send(verified, 10).0, ReplyStatus::Granted);
    assert_eq!(send(verified, 9), refused("counter"));
    daemon.kill9();
    let daemon = Daemon::start(&lab.server, &site);
    assert_eq!(send(verified, 9), refused("counter"));
    assert_eq!(send(verified, 11).0, ReplyStatus::Granted);
    drop(daemon);
}

#[test]
fn ssh_keygen_verifies_the_signature_of_a_recorded_knock() {
    let Some(lab) = Lab::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    for kind in KINDS {
        let key = SshKey::new(kind);
        let site = site(&key, "");
        let mut daemon = Daemon::start(&lab.server, &site);
        let set = key_set(&site);
        let datagram = key.seal(&knock("open-ssh"), &set.client());
        let reply = reply(&lab.client.udp(CLIENT4), &datagram, &set.client()).expect("a reply");
        assert_eq!(reply.status, ReplyStatus::Granted);
        assert!(daemon.terminate().success());
        // With the pair secret, one can show a third party what was requested, and by which key.
        evidence::verify(folder.path(), datagram.as_bytes(), &set.keeper(), &key.public, true);
        let other = SshKey::new(kind);
        evidence::verify(folder.path(), datagram.as_bytes(), &set.keeper(), &other.public, false);
    }
}

/// Writes a file for a program.
fn write(folder: &Path, name: &str, content: &[u8]) -> std::path::PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}
