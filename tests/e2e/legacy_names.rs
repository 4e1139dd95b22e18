//! Host names in the log (`-l`): from a private /etc/hosts, and from lookups that return false results or hang.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use crate::net::{
    CLIENT4, CLIENT6, Knockd, Lab, Mounts, SERVER4, SERVER6, SOON, Wire, knock_in_a_flood, limited, within,
};

const DOOR: &str =
    "[a]\nsequence = 7000,8000\ntcpflags = syn\nseq_timeout = 20\ncommand = echo %IP% >> DIR/ran\n";

/// Replaces the file at `target` for the daemon only.
fn replace_file(mounts: &Mounts, scratch: &Path, target: &str, text: &str) {
    let path = scratch.join(target.replace('/', "-"));
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    mounts.mount(&["--bind", path.to_str().unwrap()], Path::new(target));
}

fn knock(lab: &Lab, server: IpAddr) {
    let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
    command.args(["legacy", &server.to_string(), "7000", "8000"]);
    assert!(lab.client.output(&mut command).status.success());
}

/// The log without its times, blank lines and first line.
fn lines(knockd: &Knockd) -> Vec<String> {
    let log = knockd.log();
    log.lines().skip(1).filter_map(|line| Some(line.split_once("] ")?.1.to_owned())).collect()
}

/// The log lines after a knock from `address`. `client` is its name in the log.
fn lines_of_knock(knockd: &Knockd, address: IpAddr, client: &str) -> Vec<String> {
    let ran = knockd.path("ran").display().to_string();
    vec![
        format!("{client}: a: Stage 1"),
        format!("{client}: a: Stage 2"),
        format!("{client}: a: OPEN SESAME"),
        format!("a: running command: echo {address} >> {ran}"),
    ]
}

#[test]
fn with_lookup_lines_have_the_clients_name_if_it_has_one_as_with_debians_knockd() {
    let Some(lab) = Lab::new() else { return };
    let (mounts, scratch) = (Mounts::new(), tempfile::tempdir().unwrap());
    replace_file(&mounts, scratch.path(), "/etc/nsswitch.conf", "hosts: files\n");
    replace_file(
        &mounts,
        scratch.path(),
        "/etc/hosts",
        "127.0.0.1 localhost\n10.77.0.2 client.example laptop\n",
    );
    for start in [Knockd::theirs_in, Knockd::ours_in] {
        let knockd = start(&mounts, &lab.server, DOOR, "--lookup");
        knock(&lab, SERVER4);
        assert!(within(SOON, || lines(&knockd).len() == 4), "{}", knockd.log());
        knock(&lab, SERVER6);
        assert!(within(SOON, || lines(&knockd).len() == 8), "{}", knockd.log());
        let expected = [
            lines_of_knock(&knockd, CLIENT4, "10.77.0.2 (client.example)"),
            lines_of_knock(&knockd, CLIENT6, "fd77::2"),
        ];
        assert_eq!(lines(&knockd), expected.concat());
    }

    let knockd = Knockd::ours_in(&mounts, &lab.server, DOOR, "");
    knock(&lab, SERVER4);
    assert!(within(SOON, || lines(&knockd).len() == 4), "{}", knockd.log());
    assert_eq!(
        lines(&knockd),
        lines_of_knock(&knockd, CLIENT4, "10.77.0.2"),
        "without the option there are no names"
    );
}

#[test]
fn a_lookup_is_unprivileged_and_if_it_lies_or_hangs_it_forges_no_line_and_delays_no_command() {
    let Some(lab) = Lab::new() else { return };
    let (mounts, scratch) = (Mounts::new(), tempfile::tempdir().unwrap());
    let fake = r#"#!/bin/sh
[ $(id -u) != 0 ] || exec echo "$2 root.example"
[ "$2" != fd77::2 ] || exec sleep 60
printf '%s x: a: OPEN SESAME\n[2026-11-24 12:00] 10.77.0.9: a: OPEN SESAME\n' "$2"
"#;
    replace_file(&mounts, scratch.path(), "/usr/bin/getent", fake);
    let knockd = Knockd::ours_in(&mounts, &lab.server, DOOR, "-l");
    knock(&lab, SERVER4);
    assert!(within(SOON, || lines(&knockd).len() == 4), "{}", knockd.log());
    assert_eq!(lines(&knockd), lines_of_knock(&knockd, CLIENT4, "10.77.0.2"));

    let start = Instant::now();
    knock(&lab, SERVER6);
    assert!(within(SOON, || knockd.ran().len() == 2), "{:?}", knockd.ran());
    assert_eq!(lines(&knockd).len(), 4, "the command has run, but its lines wait");
    assert!(within(SOON, || lines(&knockd).len() == 8), "{}", knockd.log());
    let logged = start.elapsed();
    assert_eq!(lines(&knockd)[4..], lines_of_knock(&knockd, CLIENT6, "fd77::2"));
    assert!((Duration::from_millis(1_900)..Duration::from_secs(5)).contains(&logged), "{logged:?}");
    // After the lookup has timed out, it is cached that there is no name.
    thread::sleep(Duration::from_millis(1_500));
    let start = Instant::now();
    knock(&lab, SERVER6);
    assert!(within(SOON, || lines(&knockd).len() == 12), "{}", knockd.log());
    assert!(start.elapsed() < Duration::from_millis(1_900), "{:?}", start.elapsed());
}

#[test]
fn a_flood_from_spoofed_addresses_starts_few_lookups_and_does_not_suppress_a_clients_name() {
    let Some(lab) = Lab::new() else { return };
    let (mounts, scratch) = (Mounts::new(), tempfile::tempdir().unwrap());
    let requests = scratch.path().join("requests");
    fs::write(&requests, "").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&requests, fs::Permissions::from_mode(0o666)).unwrap();
    let fake = format!("#!/bin/sh\necho $2 >> {}\necho $2 host.example\n", requests.display());
    replace_file(&mounts, scratch.path(), "/usr/bin/getent", &fake);
    let knockd = Knockd::ours_in(&mounts, &lab.server, DOOR, "-l");
    let mut wire = Wire::new((&lab.client, "eth0"), (&lab.server, "lan0"));
    let opened = || knockd.count("10.77.0.2 (host.example): a: OPEN SESAME");
    let start = Instant::now();
    let every = Duration::from_secs(2);
    let (through, others) = knock_in_a_flood(&mut wire, 2_000, 3, every, || knock(&lab, SERVER4), opened);
    let most = 30 * (usize::try_from(start.elapsed().as_secs()).unwrap() + 2);
    let lookups = fs::read_to_string(&requests).unwrap().lines().count();
    println!("{through} of 3 knocks logged with their name, {others} others per second, {lookups} lookups");
    assert_eq!(through, 3);
    assert!((1..=most).contains(&lookups), "{lookups} lookups");
}
