//! The clients in other languages (`ports/`) at a real daemon.

use std::net::IpAddr;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::language::Language;
use crate::net::{BOTH, Counter, Daemon, KNOCK_PORT, Lab, NatLab, ROUTER4, SERVER4, Site, limited, open_ssh};

/// How long the server repeats its reply to a knock, and some time more.
const RESENDS: Duration = Duration::from_millis(10_500);
/// Longer than a reply needs to cross a cable.
const SETTLE: Duration = Duration::from_millis(500);

macro_rules! test_clients {
    ($($module:ident: $language:ident),*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn a_grant_needs_one_knock_over_either_ip_version_and_a_copy_opens_nothing() {
                grants_once(Language::$language);
            }

            #[test]
            fn behind_a_nat_the_second_knock_is_granted() {
                finds_its_address(Language::$language);
            }

            #[test]
            fn each_failure_has_the_exit_code_of_the_main_client() {
                fails_by_kind(Language::$language);
            }
        }
    )*};
}

test_clients! { python: Python, javascript: JavaScript, go: Go, java: Java }

/// The client with this key file and these arguments.
fn client(language: Language, key: &std::path::Path, args: &[&str]) -> Command {
    let words = language.client();
    let mut command = limited(&words[0]);
    command.args(&words[1..]).arg("--key").arg(key).args(args).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn grants_once(language: Language) {
    if !language.is_tested() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(2));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let key = site.key_path("laptop");
    let mut capture = lab.client.enter(|| {
        let device = pcap::Capture::from_device("eth0").unwrap().immediate_mode(true).timeout(100);
        let mut capture = device.open().unwrap();
        capture.filter(&format!("udp and dst port {KNOCK_PORT}"), true).unwrap();
        capture.setnonblock().unwrap()
    });
    let mut knocks = Vec::new();
    let mut last = Instant::now();
    for (own, server) in BOTH {
        let output = lab.client.output(&mut client(language, &key, &[&server.to_string(), "open-ssh"]));
        last = Instant::now();
        assert!(output.status.success(), "{language:?}: {}", text(&output));
        assert!(
            text(&output).contains(&format!("granted to {} for 2s", shown(language, own))),
            "{}",
            text(&output)
        );
        assert!(lab.client.reaches(server, 22), "{language:?} opens the port over {server}");
        let mut sent = Vec::new();
        while let Ok(packet) = capture.next_packet() {
            // Ethernet, IPv4 or IPv6 without options, UDP.
            sent.push(packet.data[if own.is_ipv4() { 42 } else { 62 }..].to_vec());
        }
        sent.dedup();
        assert!(
            sent.len() == 1 && (228..=291).contains(&sent[0].len()),
            "{language:?}: {} knocks",
            sent.len()
        );
        knocks.push((own, server, sent.remove(0)));
        lab.client.wait_until_closed(server, 22);
    }
    assert_eq!(site.audit_of("granted").len(), 2);
    assert!(site.audit_of("granted").iter().all(|record| record["client"] == "laptop"));

    thread::sleep(RESENDS.saturating_sub(last.elapsed()));
    let counter = Counter::new(&lab.client);
    for (own, server, knock) in &knocks {
        lab.client.udp(*own).send_to(knock, (*server, KNOCK_PORT)).unwrap();
    }
    thread::sleep(SETTLE);
    assert_eq!(counter.packets(), 0, "{language:?}: a copy gets no reply");
    for (_, server, _) in &knocks {
        assert!(!lab.client.reaches(*server, 22), "{language:?}: a copy opens nothing over {server}");
    }
    assert_eq!(site.audit_of("granted").len(), 2);
    // Repeated refusals are one record with a count.
    assert!(!site.audit_of("replayed").is_empty(), "{:?}", site.audit());
}

/// An address as the client prints it: Java does not shorten IPv6 addresses (RFC 5952).
fn shown(language: Language, address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) if language == Language::Java => {
            v6.segments().map(|segment| format!("{segment:x}")).join(":")
        }
        other => other.to_string(),
    }
}

fn finds_its_address(language: Language) {
    if !language.is_tested() {
        return;
    }
    let Some(lab) = NatLab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let server = SERVER4.to_string();
    let output = lab.client.output(&mut client(language, &site.key_path("laptop"), &[&server, "open-ssh"]));
    assert!(output.status.success(), "{language:?}: {}", text(&output));
    assert!(text(&output).contains(&format!("granted to {ROUTER4} for 30s")), "{}", text(&output));
    assert!(lab.client.reaches(SERVER4, 22), "open for the translated address");
    let [granted] = &site.audit_of("granted")[..] else { panic!("{:?}", site.audit()) };
    assert_eq!(granted["address"], ROUTER4.to_string());
    let [refused] = &site.audit_of("refused")[..] else { panic!("{:?}", site.audit()) };
    assert_ne!(refused["knock"], granted["knock"], "the first knock names the client's own address");
}

fn fails_by_kind(language: Language) {
    if !language.is_tested() {
        return;
    }
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(30));
    lab.server.echo(22);
    let mut daemon = Daemon::start(&lab.server, &site);
    let key = site.key_path("laptop");
    let other = Site::new("", &open_ssh(30));
    let exposed = site.path("keys").join("exposed.key");
    std::fs::copy(&key, &exposed).unwrap();
    std::fs::set_permissions(&exposed, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let damaged = site.path("keys").join("damaged.key");
    std::fs::write(&damaged, std::fs::read_to_string(&key).unwrap().replace("secret: ", "secret: x"))
        .unwrap();
    std::fs::set_permissions(&damaged, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let server = SERVER4.to_string();
    let secret = std::fs::read_to_string(&key).unwrap();
    let secret = secret.split("secret: ").nth(1).unwrap().trim();
    let check = |key: &std::path::Path, args: &[&str], code: i32, message: &str| {
        let output = lab.client.output(&mut client(language, key, args));
        let printed = text(&output);
        assert_eq!(output.status.code(), Some(code), "{language:?} {args:?}: {printed}");
        assert!(printed.contains(message), "{language:?} {args:?}: {printed}");
        assert!(!printed.contains(&secret[..8]), "{language:?}: prints the key");
    };
    check(&key, &[&server, "close-ssh"], 1, "close-ssh refused: unknown action");
    check(&key, &[&server, "open-ssh", "tcp/22"], 1, "open-ssh refused: argument refused");
    check(&key, &[&server], 2, "usage: ");
    check(&key, &[&server, "Open"], 2, "not valid");
    check(&other.key_path("laptop"), &[&server, "open-ssh"], 3, "no reply within 3");
    check(&key, &["203.0.113.77", "open-ssh"], 4, "203.0.113.77: ");
    check(&key, &["nothing.invalid", "open-ssh"], 4, "nothing.invalid: ");
    check(&exposed, &[&server, "open-ssh"], 5, "mode 0644 allows others to access it");
    check(&damaged, &[&server, "open-ssh"], 5, "secret");
    check(&site.path("none.key"), &[&server, "open-ssh"], 5, "none.key");
    assert_eq!(site.audit_of("granted").len(), 0);

    daemon.kill9();
    check(&key, &[&server, "open-ssh"], 3, "no reply within 3");
    assert!(!lab.client.reaches(SERVER4, 22));
}
