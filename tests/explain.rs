//! `spa-knockd explain` names the true cause for each prepared capture. The captures are built here, byte by byte.
#![cfg(feature = "daemon")]
#![allow(
    clippy::disallowed_methods,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests run programs, write files and panic on failure"
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use etherparse::{PacketBuilder, PacketBuilderStep, UdpHeader};
use spa_knock_core::crypto::{KeySet, MacKey, PairSecret, RootSecret, Secret};
use spa_knock_core::knock::{AddressPolicy, Knock, KnockRange, ReplyWanted, TimeStep, Timestamp};
use spa_knock_core::wire::{Datagram, proof, selector, sequence};

/// The time of the captures: 2026-11-22T08:37:57Z.
const NOW: u64 = 1_795_336_677_000;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
/// Each secret is this byte, 32 times.
const LAPTOP: u8 = 1;
const PHONE_BEFORE: u8 = 2;
const PHONE: u8 = 3;
const GUEST: u8 = 4;
const REVOKED: u8 = 9;

/// One frame with its capture time.
struct Captured {
    time: u64,
    bytes: Vec<u8>,
    length: usize,
}

fn keys(secret: u8, server: &str) -> KeySet {
    PairSecret::new(Secret::from_bytes(&[secret; 32])).keys(&server.parse().unwrap())
}

fn knock(time: u64) -> Knock {
    Knock {
        timestamp: Timestamp::from_millis(time),
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Observed,
        ipv4: None,
        ipv6: None,
        action: "open-ssh".parse().unwrap(),
        argument: "".parse().unwrap(),
    }
}

/// A datagram whose nonce is derived from `number`.
fn sealed(knock: &Knock, keys: &KeySet, number: u8) -> Vec<u8> {
    Datagram::seal_with(knock, &keys.client(), [number; 12], 5).unwrap().as_bytes().to_vec()
}

fn built(builder: PacketBuilderStep<UdpHeader>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

fn to(port: u16) -> PacketBuilderStep<UdpHeader> {
    PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([203, 0, 113, 9], [192, 0, 2, 1], 64).udp(4000, port)
}

fn captured(payload: &[u8]) -> Captured {
    frame(built(to(62201), payload))
}

fn frame(bytes: Vec<u8>) -> Captured {
    Captured { time: NOW, length: bytes.len(), bytes }
}

fn later(mut captured: Captured, by: u64) -> Captured {
    captured.time += by;
    captured
}

/// A pcap file in libpcap's savefile format: microseconds, Ethernet.
fn pcap(frames: &[Captured]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xA1B2_C3D4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        let (seconds, micros) = (frame.time / 1_000, frame.time % 1_000 * 1_000);
        for word in [seconds as u32, micros as u32, frame.bytes.len() as u32, frame.length as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(&frame.bytes);
    }
    file
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The directory of a server with a few clients.
fn server() -> tempfile::TempDir {
    use base64::Engine as _;
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path();
    let folder = root.display();
    let config = format!(
        "[server]\nid = 'bastion'\nkeys_dir = '{folder}'\nstate_dir = '{folder}/state'\naudit = ''\n\
         user = \"nobody\"\n\
         [ports]\nlow = 20480\n[action.open-ssh]\nopen = ['tcp/22']\nfor = '30s'\n[action.open-web]\nopen = ['tcp/443']\nfor = '30s'\n\
         [client.laptop]\nkey = 'laptop.key'\nallow = ['open-ssh']\n\
         [client.guest]\nkey = 'guest.key'\nallow = ['open-ssh']\nexpires = 2026-11-22\n\
         [client.phone]\nkey = 'phone.key'\nallow = ['open-ssh']\n\
         previous = {{ key = 'phone-before.key', until = 2026-11-22T08:00:00Z }}\n"
    );
    private(&root.join("spa-knockd.toml"), &config);
    for (name, secret) in
        [("laptop", LAPTOP), ("guest", GUEST), ("phone", PHONE), ("phone-before", PHONE_BEFORE)]
    {
        let secret = base64::engine::general_purpose::STANDARD.encode([secret; 32]);
        let text = format!("spa-knock-key: 1\nkind: pair\nserver: bastion\nsecret: {secret}\n");
        private(&root.join(format!("{name}.key")), &text);
    }
    scratch
}

/// The output of `explain` for these frames.
fn explained(frames: &[Captured], options: &[&str]) -> String {
    explained_by(&server(), frames, options)
}

/// The output of `explain` for these frames, with the config in this directory.
fn explained_by(scratch: &tempfile::TempDir, frames: &[Captured], options: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_spa-knockd"))
        .args(["explain", "-"])
        .args(options)
        .arg("-c")
        .arg(scratch.path().join("spa-knockd.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&pcap(frames)).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let count = if frames.len() == 1 { "1 packet".to_owned() } else { format!("{} packets", frames.len()) };
    assert!(stderr.starts_with(&format!("{count}: ")), "{stderr}");
    // No files are created, not even the state directory.
    assert!(!scratch.path().join("state").exists());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_prepared_capture_gets_its_true_cause() {
    let laptop = keys(LAPTOP, "bastion");
    let good = sealed(&knock(NOW), &laptop, 1);
    let root = RootSecret::new(Secret::from_bytes(&[LAPTOP; 32]));
    let derived = root.pair(&"192.0.2.1".parse().unwrap()).keys(&"192.0.2.1".parse().unwrap());
    let mut changed = good.clone();
    changed[150] ^= 1;
    let mut cut = captured(&good);
    cut.bytes.truncate(96);
    let mut fragment = captured(&good);
    fragment.bytes[20] = 0x20;
    let mut later_fragment = captured(&good);
    later_fragment.bytes[21] = 0x40;
    let exact = Knock { policy: AddressPolicy::Exact, ipv4: Some([10, 0, 0, 7].into()), ..knock(NOW) };
    let other_action = |name: &str| Knock { action: name.parse().unwrap(), ..knock(NOW) };
    let mut unsealed = keys(LAPTOP, "bastion").client();
    unsealed.seal = keys(PHONE, "bastion").client().seal;
    let unsealed = Datagram::seal_with(&knock(NOW), &unsealed, [7; 12], 0).unwrap();

    // Each packet, and what its line contains, in this order.
    let cases: Vec<(Captured, &[&str])> = vec![
        (captured(&good), &["laptop open-ssh: passed", "for 203.0.113.9, for 30 s"]),
        (
            captured(&sealed(&knock(NOW - 4 * HOUR), &laptop, 11)),
            &[
                "laptop: stopped at step 2",
                "timestamp is 14400 s old",
                "clock of laptop is 4h behind",
                "time zone",
            ],
        ),
        (
            captured(&sealed(&knock(NOW - 100_000), &laptop, 12)),
            &["laptop: stopped at step 2", "clock of laptop is 1m 40s behind, or an old knock was replayed"],
        ),
        (
            captured(&sealed(&knock(NOW + 45_000), &laptop, 13)),
            &["laptop: stopped at step", "clock of laptop is 45s ahead"],
        ),
        (
            captured(&sealed(&knock(NOW + 90 * DAY), &laptop, 14)),
            &["laptop: stopped at step 2", "clock of laptop is 90 days"],
        ),
        (
            captured(&sealed(&knock(5 * HOUR), &laptop, 15)),
            &["laptop: stopped at step 2", "clock of laptop was reset to 1970"],
        ),
        (
            captured(&sealed(&knock(NOW), &keys(LAPTOP, "192.0.2.1"), 16)),
            &["laptop: stopped at step 2", "signed for the server id 192.0.2.1; this server is bastion"],
        ),
        (
            captured(&sealed(&knock(NOW), &keys(LAPTOP, "bastion.example.org"), 17)),
            &["laptop: stopped at step 2", "signed for the server id bastion.example.org"],
        ),
        (
            captured(&sealed(&knock(NOW), &derived, 18)),
            &[": stopped at step 2, unknown-hint", "made for another server"],
        ),
        (
            captured(&sealed(&knock(NOW), &keys(REVOKED, "bastion"), 19)),
            &[": stopped at step 2, unknown-hint", "its key is unknown here: revoked, replaced"],
        ),
        (
            captured(&sealed(&knock(NOW), &keys(PHONE_BEFORE, "bastion"), 20)),
            &[
                "phone: stopped at step 2",
                "the previous key of phone, which was valid until 2026-11-22T08:00:00",
            ],
        ),
        (captured(&changed), &["laptop: stopped at step 3, forged", "changed in transit"]),
        (
            frame(built(to(62202), &good)),
            &["62202 laptop: stopped at step 1, other-port", "this server uses udp/62201"],
        ),
        (captured(&good[..200]), &["stopped at step 1, bad-length: 200 bytes; knocks have 228 to 291"]),
        (captured(&[]), &["stopped at step 1, bad-length: 0 bytes", "a port scan"]),
        (fragment, &["stopped at step 1, fragment: the first fragment"]),
        (later_fragment, &["stopped at step 1, fragment: a fragment"]),
        (cut, &["truncated", "tcpdump -s 0"]),
        (
            captured(&sealed(&exact, &laptop, 21)),
            &["laptop: stopped at step 6, address-mismatch", "translated"],
        ),
        (
            captured(&sealed(&other_action("open-shh"), &laptop, 22)),
            &["laptop open-shh: stopped at step 8, unknown-action", "defined actions: open-ssh, open-web"],
        ),
        (
            captured(&sealed(&other_action("open-web"), &laptop, 23)),
            &["laptop open-web: stopped at step 8, not-allowed", "actions allowed for laptop: open-ssh"],
        ),
        (
            captured(&sealed(&knock(NOW), &keys(GUEST, "bastion"), 24)),
            &["guest open-ssh: stopped at step 8, expired", "`expires`"],
        ),
        (captured(unsealed.as_bytes()), &["laptop: stopped at step 4, decryption-failed", "a faulty client"]),
        (frame(built(to(53), b"a question")), &["other-traffic: UDP to port 53"]),
        (frame(vec![0; 60]), &["other-traffic: neither UDP nor TCP"]),
    ];
    assert!(cases.len() >= 12);
    let (frames, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let text = explained(&frames, &["--try-id", "Bastion.example.org."]);
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    for (line, parts) in text.lines().zip(expected) {
        let mut rest = line;
        for part in parts {
            rest = rest.split_once(part).unwrap_or_else(|| panic!("no {part:?} in: {line}")).1;
        }
    }
}

#[test]
fn a_copy_names_the_packet_that_it_copies() {
    let laptop = keys(LAPTOP, "bastion");
    let good = sealed(&knock(NOW), &laptop, 1);
    let mut frames = vec![frame(built(to(53), b"")), captured(&good), later(captured(&good), 250)];
    frames.push(later(captured(&good), 15_000));
    frames.push(later(captured(&good), 4 * HOUR));
    let text = explained(&frames, &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[1].contains(": passed"), "{text}");
    assert!(lines[2].contains("step 6, resent") && lines[2].contains("identical to packet 2"), "{text}");
    assert!(lines[3].contains("step 6, replayed") && lines[3].contains("a copy of packet 2"), "{text}");
    assert!(lines[4].contains("step 2") && lines[4].contains("a copy of packet 2, sent again"), "{text}");

    let flood: Vec<Captured> = (0..20).map(|_| captured(&good)).collect();
    let text = explained(&flood, &[]);
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("step 3, duplicate") && last.contains("packet 1 is sent again and again"),
        "{text}"
    );
}

#[test]
fn the_last_packet_of_a_port_sequence_shows_its_result() {
    let laptop = keys(LAPTOP, "bastion");
    let client = laptop.watcher();
    let step = TimeStep::of(Timestamp::from_millis(NOW));
    let action = "open-ssh".parse().unwrap();
    let proof = proof(&laptop.keeper().proof.unwrap(), step, None, &action, KnockRange::USUAL);
    let ports = sequence(selector(&MacKey::from(&client.selector.unwrap()), step, KnockRange::USUAL), &proof);
    let syn = |port: &u16| {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([203, 0, 113, 9], [192, 0, 2, 1], 64);
        builder.tcp(4000, *port, 7, 100).syn().write(&mut bytes, &[]).unwrap();
        frame(bytes)
    };
    let frames: Vec<Captured> = ports.iter().chain(&ports[..1]).map(syn).collect();
    let text = explained(&frames, &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[..7].iter().all(|line| line.contains(": port-hit: ")), "{text}");
    assert!(lines[7].contains("laptop open-ssh: passed"), "{text}");
    assert!(lines[8].contains(": port-hit: "), "a copy: {text}");
    // Two minutes later, the sequence is no longer valid.
    let late: Vec<Captured> = ports.iter().map(|port| later(syn(port), 120_000)).collect();
    assert!(explained(&late, &[]).lines().all(|line| line.contains(": port-hit: ")));
}

#[cfg(feature = "fwknop")]
#[test]
fn a_packet_of_fwknop_is_recognized_with_its_stanza() {
    use spa_knock_fwknop::{CipherKey, Digest, HmacKey};
    let scratch = server();
    let root = scratch.path();
    let packet = |digest, hmac_key: &[u8], length: usize| {
        let key = CipherKey::new(b"key").unwrap();
        key.seal(&"x".repeat(length), &[7; 8], &HmacKey::new(digest, hmac_key)).into_bytes()
    };
    let good = packet(Digest::Sha256, b"second", 90);
    // As long as a knock.
    let long = packet(Digest::Sha256, b"second", 130);
    assert!(good.len() < 228 && (228..=291).contains(&long.len()), "{} {}", good.len(), long.len());
    let frames = || {
        vec![
            captured(&good),
            captured(&long),
            captured(&packet(Digest::Sha256, b"other", 90)),
            captured(&packet(Digest::Sha512, b"second", 90)),
            frame(built(to(62209), &good)),
            captured(&sealed(&knock(NOW), &keys(LAPTOP, "bastion"), 1)),
        ]
    };
    let unread = ": fwknop-dropped: a packet of fwknop; likely: the client still uses fwknop, and `fwknop` in [legacy] names no";
    let text = explained_by(&scratch, &frames(), &[]);
    assert_eq!(text.matches(unread).count(), 4, "{text}");

    let access = "SOURCE ANY\nKEY a\nHMAC_KEY first\nSOURCE ANY\nKEY key\nHMAC_KEY second\n";
    private(&root.join("access.conf"), access);
    let config = root.join("spa-knockd.toml");
    let legacy = format!("[legacy]\nfwknop = '{}'\n", root.join("access.conf").display());
    private(&config, &(fs::read_to_string(&config).unwrap() + &legacy));
    let text = explained_by(&scratch, &frames(), &[]);
    let authentic = ": fwknop: a packet of fwknop, authenticated by stanza-2; the daemon decides about it: see its log, the audit log, and spa-knockd status -c ";
    let forged = ": fwknop-dropped: a packet of fwknop that no stanza authenticates; the daemon drops it without a log line; likely: HMAC_KEY or HMAC_DIGEST_TYPE of the client differs";
    let expected = [
        authentic,
        authentic,
        forged,
        forged,
        ": other-traffic: UDP to port 62209",
        "laptop open-ssh: passed",
    ];
    assert_eq!(text.lines().count(), expected.len(), "{text}");
    for (line, part) in text.lines().zip(expected) {
        assert!(line.contains(part), "no {part:?} in: {line}");
    }
}

#[test]
fn a_line_of_json_has_the_same_content() {
    let datagram = sealed(&knock(NOW - 4 * HOUR), &keys(LAPTOP, "bastion"), 2);
    let text = explained(&[captured(&datagram)], &["--json"]);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (name, value) in [
        ("packet", serde_json::json!(1)),
        ("time", "2026-11-22T08:37:57.000Z".into()),
        ("from", "203.0.113.9:4000".into()),
        ("to", "192.0.2.1:62201".into()),
        ("check", "unknown-hint".into()),
        ("step", 2.into()),
        ("client", "laptop".into()),
        ("action", serde_json::Value::Null),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    assert!(line["cause"].as_str().unwrap().starts_with("the clock of laptop is 4h behind"));
}

#[test]
fn a_file_that_is_not_a_capture_is_an_error() {
    let scratch = server();
    let file = scratch.path().join("x.pcap");
    fs::write(&file, "not a capture").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_spa-knockd"))
        .arg("explain")
        .args([&file, Path::new("-c"), &scratch.path().join("spa-knockd.toml")])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with(&format!("spa-knockd: {}: ", file.display())), "{stderr}");
}

/// Datagrams of an unknown key, each three days after the previous one.
fn scattered(count: u64) -> Vec<Captured> {
    let unknown = keys(REVOKED, "bastion");
    let at = |number: u64| {
        let time = NOW + number * 3 * DAY;
        later(
            captured(&sealed(&knock(time), &unknown, u8::try_from(number % 256).unwrap())),
            number * 3 * DAY,
        )
    };
    (0..count).map(at).collect()
}

#[test]
fn the_time_for_packets_of_scattered_times_is_limited() {
    let text = explained(&scattered(300), &[]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 300);
    assert!(lines[0].contains("its key is unknown here: revoked, replaced"), "{text}");
    assert!(lines[0].contains("times within ") && lines[0].ends_with(" days)"), "{text}");
    assert!(lines[299].contains("explain a part of it (editcap -A and -B)"), "{text}");
}

#[test]
fn a_signal_stops_the_reading_of_a_file() {
    use std::io::{BufRead, BufReader, Read};
    let scratch = server();
    let file = scratch.path().join("odd.pcap");
    fs::write(&file, pcap(&scattered(3_000))).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_spa-knockd"))
        .arg("explain")
        .args([&file, Path::new("-c"), &scratch.path().join("spa-knockd.toml")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(rest.lines().count() < 2_900, "{} lines", rest.lines().count());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("stopped by a signal; the remaining packets were not explained\n"), "{stderr}");
}

#[test]
fn a_missing_file_is_named_once_and_a_closed_pipe_is_not_an_error() {
    let scratch = server();
    let config = scratch.path().join("spa-knockd.toml");
    let missing = scratch.path().join("nofile.pcap");
    let explain = |file: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spa-knockd"));
        command.arg("explain").args([file, Path::new("-c"), &config]);
        command
    };
    let output = explain(&missing).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.matches("nofile.pcap").count()), (Some(1), 1), "{stderr}");

    let file = scratch.path().join("one.pcap");
    fs::write(&file, pcap(&[captured(b"x")])).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = explain(&file).stdout(writer).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(141), "{stderr}");
    assert!(!stderr.contains("broken pipe"), "{stderr}");
}
