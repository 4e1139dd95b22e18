//! A compromised watcher for fwknop's packets, `tests/hostile/src/bin/lying-watcher.rs`. It has the HMAC keys and
//! nothing else: it can suppress packets and lie about where one came from, but it cannot make one, change one or use one
//! twice.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::fwknop::{SOON, site, status, text_of};
use crate::fwknop_packets::USUAL;
use crate::hostile::program;
use crate::net::{CLIENT4, Daemon, Lab, SERVER4, Site, ask_patiently, within};

/// The daemon's programs, one of which is replaced by the watcher that lies.
struct CompromisedPrograms(TempDir);

impl CompromisedPrograms {
    fn new(lies: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let built = Path::new(Daemon::PROGRAM).parent().unwrap();
        for name in ["spa-knockd", "spa-knock-watcher"] {
            fs::copy(built.join(name), folder.path().join(name)).unwrap();
        }
        let lying = program().with_file_name("lying-watcher");
        fs::copy(lying, folder.path().join("spa-knock-fwknop-watcher")).unwrap();
        let version = concat!(env!("CARGO_PKG_VERSION"), ", messages 1");
        fs::write(folder.path().join("lies"), format!("{version}\n{lies}\n")).unwrap();
        Self(folder)
    }

    fn start(&self, lab: &Lab, site: &Site) -> Daemon {
        let mut command = Command::new(self.0.path().join("spa-knockd"));
        command.args(Daemon::arguments(site));
        Daemon::start_command(&lab.server, command)
    }
}

fn counts(site: &Site) -> [u64; 2] {
    let json: Value = serde_json::from_str(&status(site, &["--json"])).unwrap();
    ["accepted", "refused"].map(|name| json["fwknop"][name].as_u64().unwrap())
}

fn assert_sealed_knocks_work(lab: &Lab, site: &Site, daemon: &Daemon) {
    let reply = ask_patiently(&lab.client.udp(CLIENT4), SERVER4, &site.key("laptop").good());
    assert!(reply.is_some(), "{}", daemon.log());
}

#[test]
fn a_watcher_that_reports_what_no_key_has_authenticated_is_replaced_and_opens_nothing() {
    let Some(lab) = Lab::new() else { return };
    let forged = format!("text 10.77.0.2:4000 8{}", "A".repeat(203));
    for (lie, reason) in [
        (forged.as_str(), "the watcher passed on a packet that no key has authenticated"),
        ("text 10.77.0.2:4000 short", "the watcher passed on a packet that no key has authenticated"),
        ("bytes", "the watcher sent an invalid message"),
    ] {
        let site = site(&USUAL.stanza("FW_ACCESS_TIMEOUT 60"), "");
        let programs = CompromisedPrograms::new(lie);
        let daemon = programs.start(&lab, &site);
        let replaced = format!("fwknop: {reason}\n  starting another watcher in ");
        assert!(within(SOON, || daemon.log().contains(&replaced)), "{}", daemon.log());
        assert_sealed_knocks_work(&lab, &site, &daemon);
        assert_eq!(counts(&site), [0, 0]);
        assert!(site.audit_of("granted").iter().all(|record| record["via"] != "fwknop"));
    }
}

#[test]
fn hmac_keys_alone_make_no_packet_that_is_accepted_and_a_flood_of_them_harms_no_sealed_knock() {
    let Some(lab) = Lab::new() else { return };
    let site = site(&USUAL.stanza("FW_ACCESS_TIMEOUT 60"), "");
    let programs = CompromisedPrograms::new("sealed 10.77.0.2:4000 5000");
    let daemon = programs.start(&lab, &site);
    assert!(within(SOON * 4, || counts(&site) == [0, 5_000]), "{:?}: {}", counts(&site), daemon.log());
    assert_sealed_knocks_work(&lab, &site, &daemon);
    assert!(site.audit_of("granted").iter().all(|record| record["via"] != "fwknop"));
    let refused = site.audit_of("refused");
    assert!(refused.len() <= 4, "repeated records are counted, not written: {}", refused.len());
    assert_eq!(refused[0]["reason"], "decryption-failed");
}

#[test]
fn a_watcher_can_lie_about_a_source_but_cannot_use_a_packet_twice_or_redirect_it() {
    let Some(lab) = Lab::new() else { return };
    for (args, address) in [(["-a", "10.77.0.9"].as_slice(), "10.77.0.9"), (&["-s"], "10.77.0.66")] {
        let site = site(&USUAL.stanza("OPEN_PORTS tcp/22\nFW_ACCESS_TIMEOUT 60"), "");
        let text = text_of(&lab, &site, &[&["-A", "tcp/22"], args].concat());
        let mut changed = text.clone().into_bytes();
        changed[60] = if changed[60] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let sources = ["10.77.0.66:1", "10.77.0.67:2", "10.77.0.68:3"];
        let mut lies: Vec<_> = sources.iter().map(|source| format!("text {source} {text}")).collect();
        lies.push(format!("text 10.77.0.69:4 {changed}"));
        let programs = CompromisedPrograms::new(&lies.join("\n"));
        let daemon = programs.start(&lab, &site);
        assert!(within(SOON, || daemon.log().contains("that no key has authenticated")), "{}", daemon.log());
        let granted = site.audit_of("granted");
        assert_eq!(granted.len(), 1, "{granted:?}");
        assert_eq!(granted[0]["address"], address);
        assert!(!site.audit_of("replayed").is_empty());
    }
}
