//! `spa-knock doctor` checks everything that a knock needs.

use std::net::{IpAddr, UdpSocket};
use std::process::Output;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::net::{Daemon, Lab, Namespace, NatLab, SERVER4, Site, open_ssh};

/// An NTP server whose clock is this many seconds ahead.
fn ntp(namespace: &Namespace, ahead: u64) {
    let socket = namespace.enter(|| UdpSocket::bind("0.0.0.0:123")).unwrap();
    thread::spawn(move || {
        let mut request = [0; 48];
        while let Ok((48, from)) = socket.recv_from(&mut request) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(ahead);
            let seconds = u32::try_from(now.as_secs() + 2_208_988_800).unwrap();
            let fraction = u32::try_from((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000).unwrap();
            let now = [seconds.to_be_bytes(), fraction.to_be_bytes()].concat();
            let reply = [&[0o044, 2, 0, 0], &[0; 20][..], &request[40..], &now, &now].concat();
            let _ = socket.send_to(&reply, from);
        }
    });
}

fn doctor(client: &Namespace, site: &Site, args: &[&str]) -> Output {
    let mut command = site.client();
    command.args(["doctor", "--timeout", "400ms", "--key"]).arg(site.key_path("laptop")).args(args);
    client.output(&mut command)
}

/// The lines except hints, each split into verdict, subject and details.
fn lines(output: &Output) -> Vec<(String, String, String)> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |line: &str| {
        let (verdict, rest) = line.split_once(' ')?;
        let (subject, rest) = rest.trim_start().split_once(' ')?;
        Some((verdict.to_owned(), subject.to_owned(), rest.trim_start().to_owned()))
    };
    text.lines().filter(|line| !line.starts_with("hint: ")).map(|text| line(text).expect(text)).collect()
}

fn verdict<'a>(lines: &'a [(String, String, String)], subject: &str) -> (&'a str, &'a str) {
    let (verdict, _, details) = lines.iter().find(|line| line.1 == subject).expect(subject);
    (verdict, details)
}

#[test]
fn doctor_without_findings_exits_with_0_and_opens_nothing() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    lab.server.echo(22);
    ntp(&lab.server, 0);
    let _daemon = Daemon::start(&lab.server, &site);
    let server = SERVER4.to_string();
    let output = doctor(&lab.client, &site, &["--ntp", &server, &server]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    assert!(lines.iter().all(|line| line.0 != "FAIL"), "{lines:?}");
    let subjects: Vec<_> = lines.iter().map(|line| line.1.as_str()).collect();
    assert_eq!(subjects, ["key", "name", "IPv4", "IPv6", "clock", "knock", "clock", "address"]);
    assert!(verdict(&lines, "address").1.contains("which is this host's own address"));
    assert!(!lab.client.reaches(SERVER4, 22), "doctor does not open a port");

    let output = doctor(&lab.client, &site, &[&server, "open-ssh"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(lab.client.reaches(SERVER4, 22), "doctor opens a port if an action is given");
}

#[test]
fn doctor_reports_a_wrong_clock_an_unknown_key_and_silence_with_their_exit_codes() {
    let Some(lab) = Lab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    ntp(&lab.server, 3600);
    let mut daemon = Daemon::start(&lab.server, &site);
    let server = SERVER4.to_string();
    let output = doctor(&lab.client, &site, &["--ntp", &server, &server]);
    assert_eq!(output.status.code(), Some(3));
    let lines = lines(&output);
    let (verdict, text) = verdict(&lines, "clock");
    assert!(verdict == "FAIL" && text.starts_with("3600.") || text.starts_with("3599."), "{text}");
    assert!(text.contains("s behind NTP server 10.77.0.1"), "{text}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("10.77.0.1: 1 problem found"));

    site.add_key("laptop");
    let output = doctor(&lab.client, &site, &[&server]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("wrong key or server id"));

    daemon.kill9();
    let output = doctor(&lab.client, &site, &[&server]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("spa-knockd is not running there"));

    let output = doctor(&lab.client, &site, &["no-such-host.invalid"]);
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn behind_a_router_doctor_reports_the_translated_address() {
    let Some(lab) = NatLab::new() else { return };
    let site = Site::new("", &open_ssh(5));
    let _daemon = Daemon::start(&lab.server, &site);
    let output = doctor(&lab.client, &site, &[&SERVER4.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = lines(&output);
    let (_, text) = verdict(&lines, "address");
    let (own, seen): (IpAddr, IpAddr) = ([10, 77, 2, 2].into(), [10, 77, 0, 2].into());
    assert!(text.contains(&format!("sees {seen}, because {own} is translated")), "{text}");
}
