//! What an `access.conf` means, and what is refused. The expectations were compared with fwknopd 2.6.10, except where a
//! comment notes that this server is stricter.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests panic on failure")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use spa_knock_fwknop::{
    AccessConfig, Arrival, ConfigFiles, Content, Denial, ForwardSource, Forwarding, Message, NatTarget,
    Rights, ServerSettings, outline_access, parse_access, parse_server,
};
use zeroize::Zeroizing;

/// Files in memory.
struct Files(BTreeMap<PathBuf, String>);

impl ConfigFiles for Files {
    fn read(&mut self, path: &Path) -> Result<Zeroizing<String>, String> {
        self.0.get(path).map(|text| Zeroizing::new(text.clone())).ok_or_else(|| "no such file".to_owned())
    }

    fn list(&mut self, directory: &Path) -> Result<Vec<PathBuf>, String> {
        Ok(self.0.keys().filter(|path| path.parent() == Some(directory)).cloned().collect())
    }
}

fn files(files: &[(&str, &str)]) -> Files {
    Files(files.iter().map(|&(path, text)| (path.into(), text.to_owned())).collect())
}

fn server(text: &str) -> ServerSettings {
    parse_server(Path::new("f"), &mut files(&[("f", text)])).unwrap().0
}

fn access(text: &str, server_text: &str) -> Result<AccessConfig, Vec<String>> {
    let result = parse_access(Path::new("a"), &server(server_text), &mut files(&[("a", text)]));
    result.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

const KEYS: &str = "SOURCE ANY\nKEY one\nHMAC_KEY two\n";
const FORWARDING: &str = "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_LOCAL_NAT Y;\n";
const TRANSLATING: &str = "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_SNAT Y;\nSNAT_TRANSLATE_IP 10.4.4.4;\n";

#[test]
fn a_stanza_that_fwknopd_refuses_or_that_is_unsafe_is_refused_with_its_line() {
    for (text, problem) in [
        ("", "a: no stanza"),
        ("KEY foo\n", "a:1: KEY: is before the first SOURCE"),
        ("source ANY\n", "a:1: a line without the name of a variable: is before the first SOURCE"),
        ("SOURCE ANY\n", "a:1: stanza: has no KEY or KEY_BASE64"),
        ("SOURCE\nKEY foo\n", "a:1: SOURCE: has no value"),
        ("SOURCE foo\nKEY a\nHMAC_KEY b\n", "a:1: SOURCE: \"foo\" is no IPv4 address"),
        ("SOURCE ANY\nKEY same\nHMAC_KEY same\n", "a:3: HMAC_KEY: is the same as KEY"),
        ("SOURCE ANY\nKEY __CHANGEME__\n", "a:2: KEY: is still __CHANGEME__"),
        ("SOURCE ANY\nKEY_BASE64 !!!\n", "a:2: KEY_BASE64: is not base64"),
        // fwknopd accepts these, and then refuses every packet.
        ("SOURCE ANY\nKEY 123456789012345678901234567890123\nHMAC_KEY b\n", "a:2: KEY: longer than 32 bytes"),
        // fwknopd accepts these; a packet without HMAC can be replayed.
        ("SOURCE ANY\nKEY foo\n", "a:1: stanza: has no HMAC key"),
        ("SOURCE ANY\nGPG_DECRYPT_ID A\nGPG_DECRYPT_PW b\n", "a:1: stanza: has only a GnuPG key"),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nENCRYPTION_MODE legacy\n", "a:4: ENCRYPTION_MODE: only CBC"),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nENCRYPTION_MODE ctr\n", "a:4: ENCRYPTION_MODE: only CBC"),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nLONELY\n", "a:4: LONELY: has no value"),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nFW_ACCESS_TIMEOUT -1\n",
            "a:4: FW_ACCESS_TIMEOUT: expected a number",
        ),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nFW_ACCESS_TIMEOUT 60x\n",
            "a:4: FW_ACCESS_TIMEOUT: expected a number",
        ),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nFW_ACCESS_TIMEOUT 99999999\n", "a:4: FW_ACCESS_TIMEOUT: expected"),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nHMAC_DIGEST_TYPE SHA224\n",
            "a:4: HMAC_DIGEST_TYPE: expected one of",
        ),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nOPEN_PORTS any/1\n", "a:4: OPEN_PORTS: any/1: not a port"),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nACCESS_EXPIRE 2030-01-01\n",
            "a:4: ACCESS_EXPIRE: expected MM/DD/YYYY",
        ),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nACCESS_EXPIRE 13/01/2030\n",
            "a:4: ACCESS_EXPIRE: expected MM/DD/YYYY",
        ),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nREQUIRE_SOURCE_ADDRESS 1\n",
            "a:4: REQUIRE_SOURCE_ADDRESS: expected Y or N",
        ),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nCMD_CYCLE_OPEN /bin/true\n", "a:1: CMD_CYCLE_CLOSE: is missing"),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nCMD_CYCLE_OPEN /bin/true\nCMD_CYCLE_CLOSE /bin/true\n",
            "a:1: CMD_CYCLE_TIMER: is missing",
        ),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nCMD_CYCLE_TIMER 0\n",
            "a:4: CMD_CYCLE_TIMER: expected a number from 1",
        ),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nFORCE_NAT 1.2.3.4\n",
            "a:4: FORCE_NAT: expected an IPv4 address and a port",
        ),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nFORCE_NAT h.example 22\n",
            "a:4: FORCE_NAT: h.example: host names are not supported\nhint: write its IPv4 address, like 192.168.1.10 22",
        ),
        ("SOURCE ANY\nKEY a\nHMAC_KEY b\nFORCE_NAT 1.2.3.4 22\n", "a:4: FORCE_NAT: forwarding is off"),
        (
            "SOURCE ANY\nKEY a\nHMAC_KEY b\nFORCE_SNAT 1.2.3.4\n",
            "a:4: FORCE_SNAT: needs FORCE_NAT or FORWARD_ALL",
        ),
        ("%include /none\n", "a:1: /none: no such file"),
        (
            "PCAP_INTF eth0;\nMAX_SPA_PACKET_AGE 60;\nFOO bar\n",
            "a:1: PCAP_INTF: is a variable of fwknopd.conf; this must be an access.conf\nhint: name the file whose ",
        ),
        ("%include a\n", "a:1: %include: more than 3 levels"),
    ] {
        let problems = access(text, "").err().unwrap();
        assert!(problems[0].starts_with(problem), "{text:?}: {problems:?}");
    }
}

#[test]
fn all_problems_are_reported_together_and_none_contains_a_key() {
    let text = "SOURCE foo\nKEY sesame\nHMAC_KEY sesame\nOPEN_PORTS x\nSOURCE ANY\nKEY_BASE64 sesame!\n";
    let problems = access(text, "").err().unwrap();
    assert_eq!(problems.len(), 4, "{problems:?}");
    assert!(!problems.concat().contains("sesame"), "{problems:?}");
}

#[test]
fn a_misspelled_variable_is_an_error_because_without_open_ports_all_ports_open() {
    let problems = access(&format!("{KEYS}OPEN_PORT tcp/22\n"), "").err().unwrap();
    assert_eq!(
        problems,
        [
            "a:4: OPEN_PORT: fwknop has no such variable, and would ignore it\nhint: write OPEN_PORTS, or remove the line"
        ]
    );
}

#[test]
fn an_invalid_value_is_reported_once() {
    for (lines, problem) in [
        ("KEY __CHANGEME__\nHMAC_KEY b\n", "a:2: KEY: is still __CHANGEME__"),
        ("KEY_BASE64 !!!\nHMAC_KEY b\n", "a:2: KEY_BASE64: is not base64"),
        ("KEY\nHMAC_KEY b\n", "a:2: KEY: has no value"),
        ("KEY a\nHMAC_KEY_BASE64 !!!\n", "a:3: HMAC_KEY_BASE64: is not base64"),
        ("KEY a\nHMAC_KEY\n", "a:3: HMAC_KEY: has no value"),
        ("KEY a\nHMAC_KEY b\nFORCE_NAT x\nFORCE_SNAT 1.2.3.4\n", "a:4: FORCE_NAT: expected an IPv4"),
        ("KEY a\nHMAC_KEY b\nFORWARD_ALL x\nFORCE_MASQUERADE Y\n", "a:4: FORWARD_ALL: expected Y or N"),
    ] {
        let problems = access(&format!("SOURCE ANY\n{lines}"), "").err().unwrap();
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{lines:?}: {problems:?}");
    }
}

#[test]
fn a_fwknopd_conf_in_place_of_an_access_conf_is_reported_once() {
    let problems = access("PCAP_INTF eth0;\nSYSLOG_IDENTITY fwknopd;\nFOO bar;\n", "").err().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    // Both files have this variable.
    let problems = access("GPG_HOME_DIR /root/.gnupg\n", "").err().unwrap();
    assert!(problems[0].starts_with("a:1: GPG_HOME_DIR: is before the first SOURCE"), "{problems:?}");
}

#[test]
fn what_is_ignored_is_reported() {
    let config =
        access(&format!("{KEYS}FOO bar\nGPG_REQUIRE_SIG Y\nFW_ACCESS_TIMEOUT 400\n"), "").ok().unwrap();
    let notices: Vec<_> = config.notices.iter().map(ToString::to_string).collect();
    assert_eq!(
        notices,
        [
            "a:4: FOO: ignored: fwknop has no such variable",
            "a:5: GPG_REQUIRE_SIG: ignored: GnuPG is not supported",
            "a:6: FW_ACCESS_TIMEOUT: is above MAX_FW_TIMEOUT, which limits it to 300 s",
        ]
    );
    assert_eq!(config.stanzas[0].timeout, 300);
}

#[test]
fn an_outline_has_the_rights_of_usable_stanzas_whatever_their_keys_are() {
    let text = "SOURCE ANY\nKEY __CHANGEME__\nOPEN_PORTS tcp/22\nENCRYPTION_MODE legacy\n\
                SOURCE ANY\nOPEN_PORTS x\nSOURCE foo\nSOURCE ANY\nCMD_CYCLE_OPEN /bin/true\n\
                SOURCE 10.0.0.1\nFW_ACCESS_TIMEOUT 400\nGPG_REQUIRE_SIG Y\n";
    let outline = outline_access(Path::new("a"), &server(""), &mut files(&[("a", text)]));
    let [first, last] = &outline.stanzas[..] else { panic!("{outline:?}") };
    assert_eq!(first.open_ports.as_ref().map(Vec::len), Some(1));
    assert_eq!((first.place_of("OPEN_PORTS").line, first.place_of("DESTINATION").line), (3, 1));
    assert_eq!((last.timeout, last.has("GPG_REQUIRE_SIG"), last.has("KEY")), (300, true, false));
    let problems: Vec<_> =
        outline.problems.iter().map(|problem| format!("{}: {}", problem.place, problem.reason)).collect();
    const LEFT_OUT: &str = "stanza: left out, because one of its lines is invalid";
    assert_eq!(
        problems,
        [
            format!("a:5: {LEFT_OUT}"),
            "a:6: OPEN_PORTS: x: not a port".to_owned(),
            "a:7: SOURCE: \"foo\" is no IPv4 address, network or ANY".to_owned(),
            format!("a:7: {LEFT_OUT}"),
            "a:8: CMD_CYCLE_CLOSE: is missing".to_owned(),
            format!("a:8: {LEFT_OUT}"),
            "a:11: FW_ACCESS_TIMEOUT: is above MAX_FW_TIMEOUT, which limits it to 300 s".to_owned(),
            "a:12: GPG_REQUIRE_SIG: ignored: GnuPG is not supported".to_owned(),
        ]
    );
}

#[test]
fn a_number_can_have_a_comment_or_the_unit_of_seconds() {
    for (value, timer) in
        [("30", Some(30)), ("30s", Some(30)), ("30 # a comment", Some(30)), ("30x", None), ("s", None)]
    {
        let text = format!("{KEYS}CMD_CYCLE_OPEN /bin/a\nCMD_CYCLE_CLOSE /bin/b\nCMD_CYCLE_TIMER {value}\n");
        let stanzas = access(&text, "").ok().map(|config| config.stanzas);
        assert_eq!(stanzas.map(|stanzas| stanzas[0].cycle.as_ref().unwrap().timer), timer, "{value}");
    }
}

#[test]
fn files_are_included_where_they_are_named() {
    let mut files = files(&[
        ("a", "SOURCE 1.1.1.1\n%include_keys /keys\nSOURCE 2.2.2.2\nKEY a\nHMAC_KEY b\n%include_folder /d\n"),
        ("/keys", "KEY from-file\nHMAC_KEY other\nOPEN_PORTS tcp/22\n"),
        ("/d/x.conf", "SOURCE 3.3.3.3\nKEY a\nHMAC_KEY b\n"),
        ("/d/y.txt", "nonsense"),
    ]);
    let config = parse_access(Path::new("a"), &server(""), &mut files).ok().unwrap();
    let sources: Vec<_> =
        config.stanzas.iter().map(|stanza| stanza.sources.list().unwrap().count()).collect();
    assert_eq!(sources, [1, 1, 1]);
    assert!(config.stanzas[0].key.is(b"from-file"));
    assert_eq!(config.stanzas[0].open_ports, None);
    assert_eq!(
        config.notices[0].to_string(),
        "/keys:3: OPEN_PORTS: ignored: a file of %include_keys contains keys only"
    );
}

#[test]
fn space_after_a_key_belongs_to_it() {
    let config = access("SOURCE ANY\nKEY foo  \t\nHMAC_KEY b;c\n", "").ok().unwrap();
    assert!(config.stanzas[0].key.is(b"foo  \t"));
}

/// A packet of `alice` for 10.0.0.9 at second 1000.
fn message(content: Content, timeout: Option<u32>) -> Message {
    Message { user: "alice".to_owned(), time: 1_000, allow: [10, 0, 0, 9].into(), content, timeout }
}

fn ports(text: &str) -> Content {
    Content::Access(text.split(',').map(port).collect())
}

fn port(text: &str) -> spa_knock_fwknop::Port {
    let transport = if text.starts_with("tcp") {
        spa_knock_fwknop::Transport::Tcp
    } else {
        spa_knock_fwknop::Transport::Udp
    };
    spa_knock_fwknop::Port { transport, number: text[4..].parse().unwrap() }
}

fn rights(lines: &str, server_text: &str, message: &Message, source: &str) -> Result<Rights, Denial> {
    let config = access(&format!("{KEYS}{lines}"), server_text).ok().unwrap();
    let destination = if source.contains(':') { "2001:db8::1" } else { "192.0.2.1" };
    let arrival =
        Arrival { source: source.parse().unwrap(), destination: destination.parse().unwrap(), time: 1_050 };
    config.stanzas[0].rights(&server(server_text), message, arrival)
}

fn open(address: &str, list: &str, seconds: u32) -> Result<Rights, Denial> {
    let ports = list.split(',').map(port).collect();
    Ok(Rights::Open { address: address.parse().unwrap(), ports, seconds })
}

#[test]
fn access_follows_the_stanza() {
    let from = "10.0.0.7";
    let zero = Message { allow: [0, 0, 0, 0].into(), ..message(ports("tcp/22"), None) };
    for (lines, message, source, expected) in [
        ("", message(ports("tcp/22"), None), from, open("10.0.0.9", "tcp/22", 30)),
        (
            "FW_ACCESS_TIMEOUT 60 # a minute",
            message(ports("tcp/22"), None),
            from,
            open("10.0.0.9", "tcp/22", 60),
        ),
        ("", message(ports("tcp/22"), Some(2)), from, open("10.0.0.9", "tcp/22", 2)),
        ("", message(ports("tcp/22"), Some(0)), from, open("10.0.0.9", "tcp/22", 30)),
        ("", message(ports("tcp/22"), Some(400)), from, open("10.0.0.9", "tcp/22", 300)),
        ("MAX_FW_TIMEOUT 10", message(ports("tcp/22"), Some(400)), from, open("10.0.0.9", "tcp/22", 10)),
        ("OPEN_PORTS tcp/22", message(ports("tcp/22"), None), from, open("10.0.0.9", "tcp/22", 30)),
        ("OPEN_PORTS tcp/22", message(ports("tcp/23"), None), from, Err(Denial::OpenPorts)),
        ("OPEN_PORTS tcp/22", message(ports("tcp/22,tcp/23"), None), from, Err(Denial::OpenPorts)),
        ("OPEN_PORTS tcp/22", message(ports("udp/22"), None), from, Err(Denial::OpenPorts)),
        ("RESTRICT_PORTS tcp/22", message(ports("tcp/23,tcp/22"), None), from, Err(Denial::RestrictPorts)),
        ("RESTRICT_PORTS tcp/22", message(ports("tcp/23"), None), from, open("10.0.0.9", "tcp/23", 30)),
        ("REQUIRE_USERNAME alice", message(ports("tcp/22"), None), from, open("10.0.0.9", "tcp/22", 30)),
        ("REQUIRE_USERNAME bob", message(ports("tcp/22"), None), from, Err(Denial::User)),
        ("", zero.clone(), from, open("10.0.0.7", "tcp/22", 30)),
        ("", zero.clone(), "2001:db8::7", open("2001:db8::7", "tcp/22", 30)),
        ("REQUIRE_SOURCE_ADDRESS Y", zero, from, Err(Denial::Address)),
        ("DESTINATION 192.0.2.0/24", message(ports("tcp/22"), None), from, open("10.0.0.9", "tcp/22", 30)),
        ("DESTINATION 192.0.3.0/24", message(ports("tcp/22"), None), from, Err(Denial::Destination)),
        ("", message(Content::Command("id".to_owned()), None), from, Err(Denial::Command)),
    ] {
        assert_eq!(rights(lines, "", &message, source), expected, "{lines}: {message:?}");
    }
}

#[test]
fn a_packet_is_accepted_within_the_age_on_both_sides() {
    for (age, time, ok) in
        [(120, 930, true), (120, 929, false), (120, 1_170, true), (120, 1_171, false), (10, 1_060, true)]
    {
        let settings = format!("MAX_SPA_PACKET_AGE {age};");
        let packet = Message { time, ..message(ports("tcp/22"), None) };
        assert_eq!(rights("", &settings, &packet, "10.0.0.7").is_ok(), ok, "{age} {time}");
    }
    let old = Message { time: 1, ..message(ports("tcp/22"), None) };
    assert!(rights("", "ENABLE_SPA_PACKET_AGING N;", &old, "10.0.0.7").is_ok());
}

#[test]
fn only_the_address_that_sends_a_packet_is_forwarded() {
    let target = NatTarget { host: "10.1.1.1".to_owned(), port: 22 };
    let nat = message(Content::Nat(vec![port("tcp/8022")], target.clone()), None);
    let local = message(Content::LocalNat(vec![port("tcp/8022")], target), None);
    for (lines, message) in
        [("", &nat), ("", &local), ("FORCE_NAT 10.2.2.2 23", &message(ports("tcp/22"), None))]
    {
        assert!(matches!(rights(lines, FORWARDING, message, "10.0.0.9"), Ok(Rights::Forward { .. })));
        assert_eq!(rights(lines, FORWARDING, message, "10.0.0.7"), Err(Denial::ForwardOther), "{lines}");
    }
}

#[test]
fn a_connection_is_forwarded_as_the_stanza_or_the_packet_has_it() {
    let target = |host: &str, port| NatTarget { host: host.to_owned(), port };
    let nat = message(Content::Nat(vec![port("tcp/8022")], target("10.1.1.1", 22)), None);
    let local = message(Content::LocalNat(vec![port("tcp/8022")], target("192.0.2.1", 22)), None);
    let name = message(Content::Nat(vec![port("tcp/8022")], target("db.example", 22)), None);
    let plain = message(ports("tcp/8022"), None);
    let with = |forwarding, source| {
        Ok(Rights::Forward { address: [10, 0, 0, 9].into(), forwarding, source, seconds: 30 })
    };
    let as_client = |forwarding| with(forwarding, ForwardSource::Client);
    let to = |to: &str| Forwarding::Port(port("tcp/8022"), to.parse().unwrap());
    let [first, forced] = [[10, 1, 1, 1], [10, 2, 2, 2]].map(Ipv4Addr::from);
    for (lines, settings, message, expected) in [
        ("", FORWARDING, &nat, as_client(to("10.1.1.1:22"))),
        ("", "", &nat, Err(Denial::Forwarding)),
        ("", FORWARDING, &local, as_client(Forwarding::Local(port("tcp/8022"), 22))),
        ("", "", &local, Err(Denial::Forwarding)),
        ("FORCE_NAT 10.2.2.2 23", FORWARDING, &nat, as_client(to("10.2.2.2:23"))),
        ("FORCE_NAT 10.2.2.2 23", FORWARDING, &plain, as_client(to("10.2.2.2:23"))),
        ("OPEN_PORTS tcp/22", FORWARDING, &nat, Err(Denial::OpenPorts)),
        ("", FORWARDING, &name, Err(Denial::HostName)),
        ("", "ENABLE_IPT_FORWARDING Y;\nENABLE_NAT_DNS N;", &name, Err(Denial::HostName)),
        // Without a target, FORWARD_ALL has no effect.
        ("FORWARD_ALL Y\nDISABLE_DNAT Y", FORWARDING, &plain, open("10.0.0.9", "tcp/8022", 30)),
        ("FORWARD_ALL Y", FORWARDING, &nat, as_client(Forwarding::Host(first))),
        ("FORWARD_ALL Y\nDISABLE_DNAT Y", FORWARDING, &nat, as_client(Forwarding::Everywhere)),
        ("FORWARD_ALL Y\nFORCE_NAT 10.2.2.2 23", FORWARDING, &plain, as_client(Forwarding::Host(forced))),
        // Packets to this host need no more than the port.
        ("FORWARD_ALL Y", FORWARDING, &local, open("10.0.0.9", "tcp/22", 30)),
        ("DISABLE_DNAT Y", FORWARDING, &local, open("10.0.0.9", "tcp/22", 30)),
        // The destination already has the port of the target.
        (
            "FORCE_NAT 10.2.2.2 23\nDISABLE_DNAT Y",
            FORWARDING,
            &plain,
            as_client(Forwarding::Direct(port("tcp/23"), forced)),
        ),
        (
            "FORCE_NAT 10.2.2.2 23\nFORCE_SNAT 10.3.3.3",
            TRANSLATING,
            &plain,
            with(to("10.2.2.2:23"), ForwardSource::Address([10, 3, 3, 3].into())),
        ),
        (
            "FORCE_NAT 10.2.2.2 23\nFORCE_MASQUERADE Y",
            TRANSLATING,
            &plain,
            with(to("10.2.2.2:23"), ForwardSource::Masquerade),
        ),
        ("", TRANSLATING, &nat, with(to("10.1.1.1:22"), ForwardSource::Address([10, 4, 4, 4].into()))),
        (
            "FORWARD_ALL Y\nDISABLE_DNAT Y",
            "ENABLE_IPT_FORWARDING Y;\nENABLE_IPT_SNAT Y;\nSNAT_TRANSLATE_IP __CHANGEME__;",
            &nat,
            with(Forwarding::Everywhere, ForwardSource::Masquerade),
        ),
    ] {
        assert_eq!(rights(lines, settings, message, "10.0.0.9"), expected, "{lines}: {message:?}");
    }
    let v6 = Message { allow: [0, 0, 0, 0].into(), ..nat };
    assert_eq!(rights("", FORWARDING, &v6, "2001:db8::7"), Err(Denial::ForwardV6));
}

#[test]
fn commands_of_a_cycle_have_their_variables_replaced() {
    let lines = "CMD_CYCLE_OPEN /bin/o $IP $SRC $PKT_SRC $DST x$PORT-$PROTO $TIMEOUT $CLIENT_TIMEOUT $foo $$\n\
                 CMD_CYCLE_CLOSE /bin/c $IP/$PORT\nCMD_CYCLE_TIMER 40\nOPEN_PORTS tcp/1\n";
    let cycle = |timeout| rights(lines, "", &message(ports("udp/53,tcp/22"), timeout), "10.0.0.7");
    let expected = |end: u32, timer: u32| {
        Ok(Rights::Cycle {
            open: format!("/bin/o 10.0.0.9 10.0.0.9 10.0.0.7 192.0.2.1 x53-17 {end} {timer} foo "),
            close: Some(("/bin/c 10.0.0.9/53".to_owned(), timer)),
        })
    };
    assert_eq!(cycle(None), expected(1_040, 40));
    assert_eq!(cycle(Some(7)), expected(1_007, 7));
    assert_eq!(cycle(Some(1_000)), expected(1_300, 300));
    let command = message(Content::Command("id".to_owned()), None);
    assert_eq!(rights(lines, "", &command, "10.0.0.7"), Err(Denial::Command));
    let once = "CMD_CYCLE_OPEN /bin/o\nCMD_CYCLE_CLOSE NONE\n";
    assert_eq!(
        rights(once, "", &message(ports("tcp/1"), None), "10.0.0.7"),
        Ok(Rights::Cycle { open: "/bin/o".to_owned(), close: None })
    );
}

#[test]
fn the_server_s_settings_are_those_of_fwknopd() {
    let default = server("");
    assert_eq!(default.ports.udp, Some(62_201..=62_201));
    assert_eq!((default.age_max, default.forwarding, default.tcp_server), (Some(120), false, None));
    assert_eq!(default.access, Path::new("/etc/fwknop/access.conf"));
    let settings = server(
        "FWKNOP_CONF_DIR /x;\nACCESS_FILE $FWKNOP_CONF_DIR/b.conf;\nPCAP_FILTER udp dst portrange 10000-65535 or tcp port 80;\n\
         ENABLE_SPA_OVER_HTTP Y;\nENABLE_TCP_SERVER Y\nTCPSERV_PORT 99;\nENABLE_IPT_SNAT Y;\nSNAT_TRANSLATE_IP 10.0.0.1;",
    );
    assert_eq!(settings.access, Path::new("/x/b.conf"));
    assert_eq!((settings.ports.udp, settings.ports.tcp), (Some(10_000..=65_535), Some(80..=80)));
    assert_eq!((settings.tcp_server, settings.snat), (Some(99), Some(Some([10, 0, 0, 1].into()))));
}

#[test]
fn a_setting_that_cannot_be_followed_is_refused_or_reported() {
    for (text, problem) in [
        ("PCAP_FILTER host 1.2.3.4;", "f:1: PCAP_FILTER: not a filter that is understood"),
        ("PCAP_FILTER udp port 0;", "f:1: PCAP_FILTER: not a filter"),
        ("ENABLE_SPA_OVER_HTTP Y;", "f:1: ENABLE_SPA_OVER_HTTP: PCAP_FILTER has no TCP port"),
        ("ENABLE_NFQ_CAPTURE Y;", "f:1: ENABLE_NFQ_CAPTURE: capturing by NFQUEUE is not supported"),
        ("ENABLE_IPT_OUTPUT Y;", "f:1: ENABLE_IPT_OUTPUT: rules for outgoing"),
        ("MAX_SPA_PACKET_AGE 0;", "f:1: MAX_SPA_PACKET_AGE: expected a number from 1 to 100000"),
        ("ACCESS_FILE $NOPE/a;", "f:1: ACCESS_FILE: $NOPE has no value above this line"),
        ("PCAP_INTF", "f:1: PCAP_INTF: has no value"),
    ] {
        let problems = parse_server(Path::new("f"), &mut files(&[("f", text)])).unwrap_err();
        assert!(problems[0].to_string().starts_with(problem), "{text}: {problems:?}");
    }
    let text = "RULES_CHECK_THRESHOLD 20;\nFOO 1;\nENABLE_IPT_OUTPUT N;\nIPFW_MAX_RULES 1;\n";
    let notices = parse_server(Path::new("f"), &mut files(&[("f", text)])).unwrap().1;
    assert_eq!(notices.len(), 4, "{notices:?}");
}
