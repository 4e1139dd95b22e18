//! Findings about rulesets as nft 1.0.6 lists them: `samples/cases.nft` loaded, then `nft -j` and `nft -a list
//! ruleset`. `samples/iptables.*` is what iptables-nft 1.8.9 created from rules like those of ufw and of a container
//! engine.

use std::path::PathBuf;

use super::*;
use crate::config;
use crate::config::ConfigText;

const CONFIG: &str = r#"
[server]
id = "bastion"
[firewall]
protect = ["tcp/22", "tcp/8080"]
[action.ssh]
open = ["tcp/22"]
for = "30s"
[action.db]
forward = { from = "tcp/15432", to = "10.0.0.5:5432" }
for = "30s"
"#;

fn config(text: &str) -> ServerConfig {
    let config =
        config::read(&ConfigText { file: PathBuf::from("c.toml"), text: text.to_owned() }, &[]).unwrap();
    // The test must not depend on the state of this machine's own daemon.
    ServerConfig { state_dir: "/nonexistent".into(), ..config }
}

/// The findings about one table of the cases as the only table of a host, without those about the knock port.
fn findings(table: &str) -> Vec<String> {
    findings_of(&config(CONFIG), &case(table))
}

fn case(table: &str) -> Ruleset {
    let mut ruleset =
        Ruleset::read(include_str!("../samples/cases.json"), include_str!("../samples/cases.txt")).unwrap();
    ruleset.chains.retain(|chain| chain.table.name == table);
    assert!(!ruleset.chains.is_empty(), "{table}");
    ruleset
}

fn findings_of(config: &ServerConfig, ruleset: &Ruleset) -> Vec<String> {
    let mut report = CheckReport::default();
    report.judge(config, ruleset, &[Version::V4, Version::V6], 0);
    let text = report.text();
    text.lines().filter(|line| line.contains("table ")).map(str::to_owned).collect()
}

#[test]
fn rules_that_drop_health_checks_are_reported_with_the_rule_that_accepts_them() {
    let with_health = CONFIG
        .replace("[server]\n", "[server]\nhealth = \"10.0.0.5:9000\"\nhealth-from = [\"10.0.0.0/16\"]\n");
    assert_ne!(with_health, CONFIG);
    for (table, expected) in [
        (
            "by_policy",
            Some(
                "server.health: tcp/9000 is closed to load balancers: table inet by_policy, chain input: policy drop",
            ),
        ),
        // These drop other ports.
        ("dropped", None),
        ("dropped_early", None),
    ] {
        let found = findings_of(&config(&with_health), &case(table));
        let found: Vec<_> = found.iter().filter(|line| line.contains("server.health")).collect();
        assert_eq!(found.len(), usize::from(expected.is_some()), "{table}: {found:?}");
        if let (Some(line), Some(expected)) = (found.first(), expected) {
            assert!(line.contains(expected), "{line}");
        }
        assert!(findings(table).iter().all(|line| !line.contains("server.health")), "{table}");
    }
    let mut report = CheckReport::default();
    report.judge(&config(&with_health), &case("by_policy"), &[Version::V4, Version::V6], 0);
    let hint = "accept it there; spa-knockd's rules still drop it for everyone else: \
                nft insert rule inet by_policy input tcp dport 9000 accept";
    let text = report.text();
    assert!(text.contains(hint), "{text}");
}

#[test]
fn rules_that_drop_packets_with_a_grant_are_reported_and_rules_that_accept_them_are_not() {
    let certain = [
        ("by_policy", "tcp/22 is dropped despite a grant: table inet by_policy, chain input: policy drop"),
        (
            "dropped",
            "tcp/22 is dropped despite a grant: table inet dropped, chain input: rule with handle 2: tcp dport 1-1023 drop",
        ),
        (
            "dropped_early",
            "tcp/22 is dropped despite a grant: table inet dropped_early, chain raw: rule with handle 2: tcp dport 22 drop",
        ),
        (
            "dropped_jump",
            "tcp/22 is dropped despite a grant: table inet dropped_jump, chain input, jump to chain deny: rule with handle 6: drop",
        ),
        (
            "rejected",
            "tcp/22 is rejected despite a grant: table inet rejected, chain input: rule with handle 2: tcp dport != 80 reject",
        ),
        (
            "firewalld",
            "tcp/22 is rejected despite a grant: table inet firewalld, chain filter_INPUT: rule with handle",
        ),
        (
            "forwarding",
            "action.db.forward: tcp/15432 is dropped despite a grant: table inet forwarding, chain forward: policy drop",
        ),
        // IPv4 alone is a problem, as most clients use it.
        ("rejected_v4", "tcp/22 is rejected over IPv4 despite a grant: table inet rejected_v4"),
        ("noted_v4", "tcp/22 is dropped over IPv4 despite a grant: table inet noted_v4"),
        (
            "forwarding_other",
            "tcp/15432 is dropped despite a grant: table inet forwarding_other, chain forward: policy drop",
        ),
    ];
    for (table, expected) in certain {
        let findings = findings(table);
        assert!(findings.len() == 1 && findings[0].contains(expected), "{table}: {findings:#?}");
        assert!(!findings[0].starts_with("warning: "), "{table}");
    }
    let uncertain = [
        (
            "accepted_but_interface",
            "tcp/22 may be dropped despite a grant: table inet accepted_but_interface, chain input: policy drop",
        ),
        ("accepted_but_source", "tcp/22 may be dropped over IPv4 despite a grant"),
        ("accepted_but_rate", "tcp/22 may be dropped"),
        (
            "dropped_v6",
            "tcp/22 is dropped over IPv6 despite a grant: table inet dropped_v6, chain input: rule with handle 2: meta nfproto ipv6 meta l4proto tcp drop",
        ),
        (
            "dropped_outside",
            "tcp/22 may be dropped despite a grant: table inet dropped_outside, chain input: rule with handle 2: iifname \"eth0\" drop",
        ),
        (
            "with_reset",
            "tcp/22 may be rejected despite a grant: table inet with_reset, chain input: rule with handle 2",
        ),
        ("dropped_not_in", "tcp/22 may be dropped"),
        (
            "unreadable",
            "tcp/22 may be dropped despite a grant: table inet unreadable, chain input: rule with handle 2: meta length > 1000 drop",
        ),
        (
            "partly_then",
            "tcp/22 may be dropped despite a grant: table inet partly_then, chain input: policy drop",
        ),
    ];
    for (table, expected) in uncertain {
        let findings = findings(table);
        let warned =
            findings.iter().any(|finding| finding.starts_with("warning: ") && finding.contains(expected));
        assert!(warned, "{table}: {findings:#?}");
        assert!(findings.iter().all(|finding| finding.starts_with("warning: ")), "{table}: {findings:#?}");
    }
    for table in [
        "accepted",
        "accepted_new",
        "accepted_set",
        "accepted_map",
        "accepted_concat",
        "accepted_protocol",
        "accepted_jump",
        "accepted_goto",
        "other_drops",
        "floods",
        "forwarding_dnat",
        "forwarding_target",
    ] {
        assert_eq!(findings(table), [""; 0], "{table}");
    }
}

#[test]
fn a_rule_that_only_loopback_or_no_packet_passes_is_a_problem() {
    for table in ["dropped_lo", "partly_returned"] {
        let findings = findings(table);
        assert!(
            findings.len() == 1 && findings[0].contains("tcp/22 is dropped despite a grant"),
            "{findings:#?}"
        );
    }
}

#[test]
fn a_redirection_of_a_protected_port_before_the_gate_is_reported() {
    for (table, verb, problem) in [
        ("nat_published", "is", true),
        ("nat_bridge", "is", true),
        ("nat_map", "is", true),
        ("nat_maybe", "may be", false),
    ] {
        let findings = findings(table);
        let expected = format!(
            "firewall.protect: tcp/8080 {verb} redirected before the gate: table ip {table}, chain prerouting: rule"
        );
        assert!(findings.len() == 1 && findings[0].contains(&expected), "{findings:#?}");
        assert_eq!(!findings[0].starts_with("warning: "), problem, "{table}");
    }
    assert_eq!(findings("nat_other"), [""; 0]);
    let ruleset = Ruleset::read(include_str!("../samples/iptables.json"), "").unwrap();
    let published = CONFIG.replace("protect = [\"tcp/22\", \"tcp/8080\"]", "published = [\"tcp/8080\"]");
    let findings = findings_of(&config(&published), &ruleset);
    assert!(!findings.iter().any(|finding| finding.contains("redirected")), "{findings:#?}");
}

#[test]
fn a_redirection_to_another_port_of_this_host_needs_a_rule_for_redirected_packets() {
    let here = config(&CONFIG.replace("10.0.0.5:5432", ":8081"));
    let db = |table: &str| {
        let mut report = CheckReport::default();
        report.judge(&here, &case(table), &[Version::V4, Version::V6], 0);
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        let found = lines.iter().position(|line| line.contains("action.db.forward"));
        found.map(|at| format!("{} {}", lines[at], lines[at + 1]))
    };
    let finding = db("by_policy").unwrap();
    assert!(
        finding
            .contains("tcp/15432 is dropped despite a grant: table inet by_policy, chain input: policy drop"),
        "{finding}"
    );
    assert!(finding.ends_with("nft insert rule inet by_policy input ct status dnat accept"), "{finding}");
    assert_eq!(db("led_here"), None);
    assert_eq!(findings("led_here").len(), 1, "port 22 is not redirected");
}

#[test]
fn rules_of_iptables_are_parsed_together_with_their_texts() {
    let (json, text) = (include_str!("../samples/iptables.json"), include_str!("../samples/iptables.txt"));
    let more = "[action.mail]\nopen = [\"tcp/25\"]\nfor = \"1s\"\n[action.web]\nopen = [\"tcp/8050\", \"tcp/9000\"]\nfor = \"1s\"\n";
    let config = config(&format!("{CONFIG}{more}"));
    let findings = findings_of(&config, &Ruleset::read(json, text).unwrap());
    let expected = [
        // IPv6 is not affected: the target is an IPv4 address.
        "action.db.forward: tcp/15432 is dropped despite a grant: table ip filter, chain FORWARD: policy drop",
        "tcp/8080 is redirected before the gate: table ip nat, chain PREROUTING, jump to chain DOCKER: rule with handle 5: iifname != \"docker0\" tcp dport 8080 counter dnat to 172.17.0.2:80",
        "action.mail.open: tcp/25 is rejected over IPv4 despite a grant: table ip filter, chain INPUT, jump to chain ufw-user-input: rule with handle 10: tcp dport 25 counter reject with tcp reset",
        "action.web.open: tcp/9000 is rejected over IPv4 despite a grant: table ip filter, chain INPUT: rule with handle 14: counter reject with icmp type host-prohibited",
    ];
    for expected in expected {
        assert!(findings.iter().any(|finding| finding.contains(expected)), "{expected}\n{findings:#?}");
    }
    assert_eq!(findings.len(), expected.len(), "{findings:#?}");
    // Without the texts, matches that nft's JSON only names are uncertain.
    let vague = findings_of(&config, &Ruleset::read(json, "").unwrap());
    assert!(vague.iter().any(|finding| finding.contains("tcp/22 may be")), "{vague:#?}");
    assert!(!vague.iter().any(|finding| finding.contains("tcp/8050 is ")), "{vague:#?}");
}

#[test]
fn rules_that_use_our_sets_accept_packets_with_a_grant() {
    let json = |set: &str| {
        format!(
            r#"{{"nftables": [
            {{"chain": {{"family": "inet", "table": "spa_knock", "name": "mine", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}}}},
            {{"rule": {{"family": "inet", "table": "spa_knock", "chain": "mine", "handle": 3, "expr": [
                {{"match": {{"op": "==", "left": {{"concat": []}}, "right": "@{set}4"}}}}, {{"accept": null}}]}}}},
            {{"rule": {{"family": "inet", "table": "spa_knock", "chain": "mine", "handle": 4, "expr": [
                {{"match": {{"op": "==", "left": {{"concat": []}}, "right": "@{set}6"}}}}, {{"accept": null}}]}}}}]}}"#
        )
    };
    let findings = |set: &str| findings_of(&config(CONFIG), &Ruleset::read(&json(set), "").unwrap());
    assert_eq!(findings("grants"), [""; 0]);
    assert_eq!(findings("others").len(), 1);
}

#[test]
fn the_number_of_walked_rules_is_limited() {
    let mut objects = Vec::new();
    for depth in 0..16 {
        let base = if depth == 0 {
            r#", "type": "filter", "hook": "input", "prio": 0, "policy": "drop""#
        } else {
            ""
        };
        objects.push(format!(r#"{{"chain": {{"family": "inet", "table": "t", "name": "c{depth}"{base}}}}}"#));
        for handle in 0..16 {
            let to = depth + 1;
            objects.push(format!(
                r#"{{"rule": {{"family": "inet", "table": "t", "chain": "c{depth}", "handle": {handle}, "expr": [{{"jump": {{"target": "c{to}"}}}}]}}}}"#
            ));
        }
    }
    let ruleset = Ruleset::read(&format!(r#"{{"nftables": [{}]}}"#, objects.join(",")), "").unwrap();
    let findings = findings_of(&config(CONFIG), &ruleset);
    assert!(findings.len() == 1 && findings[0].contains("tcp/22 may be dropped"), "{findings:#?}");
}

#[test]
fn a_rule_that_drops_everything_is_reported_instead_of_one_that_only_drops_floods() {
    let findings = findings("flood_then_reject");
    assert!(
        findings.len() == 1
            && findings[0].contains("may be rejected despite a grant")
            && !findings[0].contains("syn_flood"),
        "{findings:#?}"
    );
}

/// The complete output about one table of the cases.
fn output(text: &str, table: &str) -> String {
    let mut report = CheckReport::default();
    report.judge(&config(text), &case(table), &[Version::V4, Version::V6], 0);
    report.text()
}

#[test]
fn a_firewall_with_a_warning_does_not_pass_the_check() {
    let passed = "no rule is known to drop what an action opens";
    for table in ["by_policy", "dropped_v6", "accepted_but_source"] {
        assert!(!output(CONFIG, table).contains(passed), "{table}");
    }
    assert!(output(CONFIG, "accepted").contains(passed));
    let mut report = CheckReport::default();
    let config = config(CONFIG);
    report.warning(&config, &["firewall"], "iptables-legacy has rules".to_owned(), "check them");
    report.judge(&config, &case("accepted"), &[Version::V4, Version::V6], 0);
    assert!(!report.json().contains(passed), "a remark about rules that nft does not list");
}

#[test]
fn in_mode_mark_the_rules_of_the_host_must_accept_only_the_mark() {
    let marking = format!("{}for = \"30s\"\n", CONFIG.split("[action.db]").next().unwrap());
    let marking = marking
        .replace("protect = [\"tcp/22\", \"tcp/8080\"]", "mode = \"mark\"")
        .replace("for = \"30s\"\nfor = \"30s\"", "for = \"30s\"");
    let passed = output(&marking, "marked");
    assert!(passed.contains("ok: firewall: this host's rules accept the mark 0x10000000"), "{passed}");
    for table in ["by_policy", "marked_otherwise"] {
        let closed = output(&marking, table);
        let hint = format!(
            "hint: make it accept the mark of packets with a grant: \
             nft insert rule inet {table} input meta mark and 0x10000000 == 0x10000000 accept"
        );
        assert!(
            closed.contains("be dropped despite a grant") || closed.contains("is dropped despite a grant"),
            "{closed}"
        );
        assert!(closed.contains(&hint), "{closed}");
        assert!(!closed.contains("ok: firewall"), "{closed}");
    }
    let other = marking.replace("mode = \"mark\"", "mode = \"mark\"\nmark = \"0x20000000\"");
    assert!(
        output(&other, "marked_otherwise")
            .contains("ok: firewall: this host's rules accept the mark 0x20000000")
    );
    for table in ["accepted", "other_drops"] {
        let open = output(&marking, table);
        assert!(
            open.contains("firewall.mode: tcp/22 is open to everyone: mode \"mark\" closes no port"),
            "{table}: {open}"
        );
    }
    let firewalld = output(&marking, "firewalld");
    assert!(
        firewalld.contains("its rules cannot match a mark; set mode = \"guard\", then: firewall-cmd"),
        "{firewalld}"
    );
}

#[test]
fn a_port_without_connection_tracking_gets_a_warning() {
    let expected =
        "firewall.protect: tcp/22 is not tracked as connections: table inet not_tracked, chain raw";
    let untracked = output(CONFIG, "not_tracked");
    assert!(untracked.contains("warning: ") && untracked.contains(expected), "{untracked}");
    assert!(!output(CONFIG, "not_tracked_other").contains("tracked"));
}

#[test]
fn a_report_ends_with_the_numbers_of_its_problems_and_warnings() {
    for (table, counts) in [
        ("by_policy", "1 problem, no warnings\n"),
        ("not_tracked", "no problems, 1 warning\n"),
        ("accepted", "no problems, no warnings\n"),
    ] {
        let output = output(CONFIG, table);
        assert!(output.ends_with(counts), "{output}");
    }
}

#[test]
fn a_knock_port_is_silent_behind_a_rule_that_accepts_only_a_mark() {
    let (ports, to) = (PortSpec::new(Protocol::Udp, 62201).unwrap().into(), PacketDestination::Here);
    let packets = PacketClass { version: Version::V4, ports, to, mark: unmarked(&config(CONFIG)) };
    let silent = |table: &str| {
        let ruleset = case(table);
        let first = first_blocker(&ruleset, packets);
        first.is_some_and(|first| first.kind == BlockKind::Dropped)
    };
    assert!(silent("marked") && silent("by_policy"));
    // Other bits of the mark are unknown.
    assert!(!silent("marked_otherwise"));
}
