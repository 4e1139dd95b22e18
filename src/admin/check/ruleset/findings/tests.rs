//! What is said of rulesets as nft 1.0.6 lists them: `samples/cases.nft` loaded, then `nft -j` and `nft -a list ruleset`;
//! `samples/iptables.*` is what iptables-nft 1.8.9 made of rules like those of ufw and of a container engine.

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
    // What this machine's own daemon has left is nothing to the test.
    ServerConfig { state_dir: "/nonexistent".into(), ..config }
}

/// The findings about one table of the cases, alone with this host; without the knock port.
fn findings(table: &str) -> Vec<String> {
    told(&config(CONFIG), &case(table))
}

fn case(table: &str) -> Ruleset {
    let mut ruleset =
        Ruleset::read(include_str!("../samples/cases.json"), include_str!("../samples/cases.txt")).unwrap();
    ruleset.chains.retain(|chain| chain.table.name == table);
    assert!(!ruleset.chains.is_empty(), "{table}");
    ruleset
}

fn told(config: &ServerConfig, ruleset: &Ruleset) -> Vec<String> {
    let mut report = CheckReport::default();
    report.judge(config, ruleset, &[Version::V4, Version::V6]);
    let text = report.text();
    text.lines().filter(|line| line.contains("table ")).map(str::to_owned).collect()
}

#[test]
fn what_closes_an_opened_port_is_named_and_what_lets_it_through_is_not() {
    let certain = [
        ("by_policy", "tcp/22 is dropped all the same: table inet by_policy, chain input: policy drop"),
        (
            "dropped",
            "tcp/22 is dropped all the same: table inet dropped, chain input: rule with handle 2: tcp dport 1-1023 drop",
        ),
        (
            "dropped_early",
            "tcp/22 is dropped all the same: table inet dropped_early, chain raw: rule with handle 2: tcp dport 22 drop",
        ),
        (
            "dropped_jump",
            "tcp/22 is dropped all the same: table inet dropped_jump, chain input, from there chain deny: rule with handle 6: drop",
        ),
        (
            "rejected",
            "tcp/22 is rejected all the same: table inet rejected, chain input: rule with handle 2: tcp dport != 80 reject",
        ),
        (
            "firewalld",
            "tcp/22 is rejected all the same: table inet firewalld, chain filter_INPUT: rule with handle",
        ),
        (
            "forwarding",
            "action.db.forward: tcp/15432 is dropped all the same: table inet forwarding, chain forward: policy drop",
        ),
        // Over IPv4 alone is as bad for most clients.
        ("rejected_v4", "tcp/22 is rejected all the same over IPv4: table inet rejected_v4"),
        ("noted_v4", "tcp/22 is dropped all the same over IPv4: table inet noted_v4"),
        (
            "forwarding_other",
            "tcp/15432 is dropped all the same: table inet forwarding_other, chain forward: policy drop",
        ),
    ];
    for (table, said) in certain {
        let findings = findings(table);
        assert!(findings.len() == 1 && findings[0].contains(said), "{table}: {findings:#?}");
        assert!(!findings[0].starts_with("warning: "), "{table}");
    }
    let uncertain = [
        (
            "accepted_but_interface",
            "tcp/22 may be dropped all the same: table inet accepted_but_interface, chain input: policy drop",
        ),
        ("accepted_but_source", "tcp/22 may be dropped all the same"),
        ("accepted_but_rate", "tcp/22 may be dropped all the same"),
        (
            "dropped_v6",
            "tcp/22 is dropped all the same over IPv6: table inet dropped_v6, chain input: rule with handle 2: meta nfproto ipv6 meta l4proto tcp drop",
        ),
        (
            "dropped_outside",
            "tcp/22 may be dropped all the same: table inet dropped_outside, chain input: rule with handle 2: iifname \"eth0\" drop",
        ),
        (
            "with_reset",
            "tcp/22 may be rejected all the same: table inet with_reset, chain input: rule with handle 2",
        ),
        ("dropped_not_in", "tcp/22 may be dropped all the same"),
        (
            "unreadable",
            "tcp/22 may be dropped all the same: table inet unreadable, chain input: rule with handle 2: meta length > 1000 drop",
        ),
        (
            "partly_then",
            "tcp/22 may be dropped all the same: table inet partly_then, chain input: policy drop",
        ),
    ];
    for (table, said) in uncertain {
        let findings = findings(table);
        let warned =
            findings.iter().any(|finding| finding.starts_with("warning: ") && finding.contains(said));
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
fn what_only_the_loopback_or_nobody_passes_closes_for_all() {
    for table in ["dropped_lo", "partly_returned"] {
        let findings = findings(table);
        assert!(
            findings.len() == 1 && findings[0].contains("tcp/22 is dropped all the same"),
            "{findings:#?}"
        );
    }
}

#[test]
fn what_leads_a_protected_port_past_the_gate_is_named() {
    for (table, verb, problem) in [
        ("nat_published", "is", true),
        ("nat_bridge", "is", true),
        ("nat_map", "is", true),
        ("nat_maybe", "may be", false),
    ] {
        let findings = findings(table);
        let said = format!(
            "firewall.protect: tcp/8080 {verb} led elsewhere before the gate: table ip {table}, chain prerouting: rule"
        );
        assert!(findings.len() == 1 && findings[0].contains(&said), "{findings:#?}");
        assert_eq!(!findings[0].starts_with("warning: "), problem, "{table}");
    }
    assert_eq!(findings("nat_other"), [""; 0]);
    let ruleset = Ruleset::read(include_str!("../samples/iptables.json"), "").unwrap();
    let published = CONFIG.replace("protect = [\"tcp/22\", \"tcp/8080\"]", "published = [\"tcp/8080\"]");
    let told = told(&config(&published), &ruleset);
    assert!(!told.iter().any(|finding| finding.contains("led elsewhere")), "{told:#?}");
}

#[test]
fn what_is_led_to_another_port_of_this_host_passes_where_led_packets_do() {
    let here = config(&CONFIG.replace("10.0.0.5:5432", ":8081"));
    let db = |table: &str| {
        let mut report = CheckReport::default();
        report.judge(&here, &case(table), &[Version::V4, Version::V6]);
        let text = report.text();
        let lines: Vec<&str> = text.lines().collect();
        let found = lines.iter().position(|line| line.contains("action.db.forward"));
        found.map(|at| format!("{} {}", lines[at], lines[at + 1]))
    };
    let said = db("by_policy").unwrap();
    assert!(
        said.contains("tcp/15432 is dropped all the same: table inet by_policy, chain input: policy drop"),
        "{said}"
    );
    assert!(said.ends_with("nft insert rule inet by_policy input ct status dnat accept"), "{said}");
    assert_eq!(db("led_here"), None);
    assert_eq!(findings("led_here").len(), 1, "port 22 is not led anywhere");
}

#[test]
fn the_rules_of_iptables_are_read_with_their_texts() {
    let (json, text) = (include_str!("../samples/iptables.json"), include_str!("../samples/iptables.txt"));
    let more = "[action.mail]\nopen = [\"tcp/25\"]\nfor = \"1s\"\n[action.web]\nopen = [\"tcp/8050\", \"tcp/9000\"]\nfor = \"1s\"\n";
    let config = config(&format!("{CONFIG}{more}"));
    let said = told(&config, &Ruleset::read(json, text).unwrap());
    let expected = [
        // Over IPv6 nothing stands in the way.
        "action.db.forward: tcp/15432 is dropped all the same: table ip filter, chain FORWARD: policy drop",
        "tcp/8080 is led elsewhere before the gate: table ip nat, chain PREROUTING, from there chain DOCKER: rule with handle 5: iifname != \"docker0\" tcp dport 8080 counter dnat to 172.17.0.2:80",
        "action.mail.open: tcp/25 is rejected all the same over IPv4: table ip filter, chain INPUT, from there chain ufw-user-input: rule with handle 10: tcp dport 25 counter reject with tcp reset",
        "action.web.open: tcp/9000 is rejected all the same over IPv4: table ip filter, chain INPUT: rule with handle 14: counter reject with icmp type host-prohibited",
    ];
    for expected in expected {
        assert!(said.iter().any(|finding| finding.contains(expected)), "{expected}\n{said:#?}");
    }
    assert_eq!(said.len(), expected.len(), "{said:#?}");
    // Without them, nothing is claimed of what nft's JSON does not tell.
    let silent = told(&config, &Ruleset::read(json, "").unwrap());
    assert!(silent.iter().any(|finding| finding.contains("tcp/22 may be")), "{silent:#?}");
    assert!(!silent.iter().any(|finding| finding.contains("tcp/8050 is ")), "{silent:#?}");
}

#[test]
fn a_grant_is_let_through_by_rules_that_name_our_sets() {
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
    let said = |set: &str| told(&config(CONFIG), &Ruleset::read(&json(set), "").unwrap());
    assert_eq!(said("grants"), [""; 0]);
    assert_eq!(said("others").len(), 1);
}

#[test]
fn chains_that_jump_to_each_other_without_end_are_left_alone() {
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
    let said = told(&config(CONFIG), &ruleset);
    assert!(said.len() == 1 && said[0].contains("tcp/22 may be dropped"), "{said:#?}");
}

#[test]
fn what_closes_is_named_and_not_what_only_drops_a_flood() {
    let findings = findings("flood_then_reject");
    assert!(
        findings.len() == 1
            && findings[0].contains("may be rejected all the same")
            && !findings[0].contains("syn_flood"),
        "{findings:#?}"
    );
}

/// The whole output about one table of the cases.
fn output(text: &str, table: &str) -> String {
    let mut report = CheckReport::default();
    report.judge(&config(text), &case(table), &[Version::V4, Version::V6]);
    report.text()
}

#[test]
fn a_warning_about_what_a_grant_opens_excludes_the_all_clear() {
    let fine = "nothing is known to drop what an action opens";
    for table in ["by_policy", "dropped_v6", "accepted_but_source"] {
        assert!(!output(CONFIG, table).contains(fine), "{table}");
    }
    assert!(output(CONFIG, "accepted").contains(fine));
}

#[test]
fn in_mode_mark_the_rules_of_the_host_must_accept_the_mark_and_nothing_else() {
    let marking = format!("{}for = \"30s\"\n", CONFIG.split("[action.db]").next().unwrap());
    let marking = marking
        .replace("protect = [\"tcp/22\", \"tcp/8080\"]", "mode = \"mark\"")
        .replace("for = \"30s\"\nfor = \"30s\"", "for = \"30s\"");
    let fine = output(&marking, "marked");
    assert!(fine.contains("ok: firewall: the rules here accept the mark 0x10000000"), "{fine}");
    for table in ["by_policy", "marked_otherwise"] {
        let closed = output(&marking, table);
        let hint = format!(
            "hint: have it accept the mark of packets with a grant: \
             nft insert rule inet {table} input meta mark and 0x10000000 == 0x10000000 accept"
        );
        assert!(
            closed.contains("be dropped all the same") || closed.contains("is dropped all the same"),
            "{closed}"
        );
        assert!(closed.contains(&hint), "{closed}");
        assert!(!closed.contains("ok: firewall"), "{closed}");
    }
    let other = marking.replace("mode = \"mark\"", "mode = \"mark\"\nmark = \"0x20000000\"");
    assert!(
        output(&other, "marked_otherwise")
            .contains("ok: firewall: the rules here accept the mark 0x20000000")
    );
    for table in ["accepted", "other_drops"] {
        let open = output(&marking, table);
        assert!(
            open.contains("firewall.mode: tcp/22 is open to everybody: mode \"mark\" closes nothing"),
            "{table}: {open}"
        );
    }
    let firewalld = output(&marking, "firewalld");
    assert!(
        firewalld.contains("its rules cannot match a mark: mode = \"guard\", and firewall-cmd"),
        "{firewalld}"
    );
}

#[test]
fn a_port_whose_packets_are_not_tracked_is_warned_of() {
    let said = "firewall.protect: tcp/22 is not tracked as connections: table inet not_tracked, chain raw";
    let untracked = output(CONFIG, "not_tracked");
    assert!(untracked.contains("warning: ") && untracked.contains(said), "{untracked}");
    assert!(!output(CONFIG, "not_tracked_other").contains("tracked"));
}

#[test]
fn a_report_ends_with_the_number_of_its_problems_and_warnings() {
    for (table, counts) in [
        ("by_policy", "1 problem, no warnings\n"),
        ("not_tracked", "no problems, 1 warning\n"),
        ("accepted", "no problems, no warnings\n"),
    ] {
        let output = output(CONFIG, table);
        assert!(output.ends_with(counts), "{output}");
    }
}
