//! The status of a daemon in Prometheus' text exposition format, version 0.0.4. Every local user can read it, so it
//! contains the number of clients, not their names; it names only clients that exceed their rate limit.

mod fleet;

use std::fmt::Write;

use super::status::{DaemonStatus, GateMode};

/// All metrics.
pub(crate) fn exposition(status: &DaemonStatus) -> String {
    let mut page = Page(String::new());
    let labels = [("version", status.version.as_str()), ("server", status.server.as_str())];
    page.begin("info", MetricKind::Gauge, "The program and the server's id.");
    page.sample("info", &labels, 1);
    page.gauge("uptime_seconds", "Seconds since the daemon started.", status.uptime);
    let closed = u64::from(status.gate.state != GateMode::Off);
    page.gauge(
        "gate_closed",
        "1 while protected ports are closed without a grant, 0 while they are open.",
        closed,
    );
    let trial = status.gate.seconds_left.unwrap_or_default();
    page.gauge("gate_trial_seconds", "Seconds until a gate on trial turns off; 0 without a trial.", trial);
    page.gauge("clients", "Clients that may knock.", number(status.clients));
    let previous = number(status.previous_keys.len());
    page.gauge("clients_with_previous_key", "Clients that have knocked with their previous key.", previous);
    page.gauge("actions", "Actions in the config.", number(status.actions));
    page.gauge("grants", "Active grants.", number(status.grants));
    page.gauge("commands_running", "Commands of actions that are running.", number(status.commands.running));
    page.gauge(
        "commands_waiting",
        "Commands of actions that are waiting to run.",
        number(status.commands.waiting),
    );
    page.gauge("undo_pending", "Undo tasks in the queue.", number(status.pending_undo));
    if let Some(audit) = &status.audit {
        page.gauge("audit_up", "1 while the audit log can be written.", u64::from(audit.error.is_none()));
        page.gauge("audit_waiting", "Audit records not written yet.", number(audit.waiting));
        page.counter("audit_lost_total", "Audit records lost.", audit.lost);
    }
    page.counter(
        "log_lost_total",
        "Lines of the daemon's log lost because standard error was not read.",
        status.log.lost,
    );
    page.gauge("watcher_up", "1 while a watcher is running.", u64::from(status.watcher.uptime.is_some()));
    page.counter(
        "watcher_restarts_total",
        "Number of times the watcher was replaced.",
        status.watcher.restarts,
    );
    if let Some(age) = status.watcher.report_age {
        page.gauge("watcher_report_age_seconds", "Seconds since the watcher's last report.", age);
    }
    page.gauge(
        "capture_missing_interfaces",
        "Configured interfaces that do not exist or are down.",
        number(status.capture.missing.len()),
    );
    let replies = u64::from(status.capture.replies);
    page.gauge("replies_possible", "0 while another process uses the knock port.", replies);
    if let Some(frames) = status.capture.frames {
        page.counter("capture_received_total", "Frames that passed the kernel's filter.", frames.received);
        page.counter(
            "capture_dropped_total",
            "Frames missed because the watcher was too slow.",
            frames.dropped,
        );
        page.counter("capture_interface_dropped_total", "Frames missed by an interface.", frames.if_dropped);
    }
    let datagrams = status.datagrams;
    page.begin("datagrams_total", MetricKind::Counter, "Datagrams of a knock's length, by verdict.");
    for (verdict, count) in [
        ("authentic", datagrams.authentic),
        ("unknown-hint", datagrams.unknown_hint),
        ("forged", datagrams.forged),
        ("duplicate", datagrams.duplicates),
        ("bad-length", datagrams.bad_length),
        ("throttled", datagrams.throttled),
    ] {
        page.sample("datagrams_total", &[("verdict", verdict)], count);
    }
    if !status.throttled.is_empty() {
        page.begin(
            "throttled_total",
            MetricKind::Counter,
            "Knocks over the rate limit of their key, by client.",
        );
        for throttled in &status.throttled {
            page.sample("throttled_total", &[("client", &throttled.client)], throttled.count);
        }
    }
    if !status.signatures.is_empty() {
        page.begin(
            "signatures_refused_total",
            MetricKind::Counter,
            "Knocks refused for their SSH signature, by client.",
        );
        for refused in &status.signatures {
            page.sample("signatures_refused_total", &[("client", &refused.client)], refused.count);
        }
    }
    if let Some(ports) = &status.ports {
        page.counter("port_hits_total", "Port hits in the knock range.", ports.hits);
        page.counter("port_sequences_total", "Port sequences checked.", ports.sequences);
    }
    if let Some(legacy) = &status.legacy {
        page.gauge("legacy_doors", "Doors in knockd.conf.", number(legacy.doors));
        page.gauge(
            "legacy_addresses",
            "Addresses that opened a door of knockd.conf in the last 24 hours, or since the start.",
            number(legacy.addresses),
        );
        page.counter("legacy_opened_total", "Number of times a knock sequence opened a door.", legacy.opened);
    }
    if let Some(fwknop) = &status.fwknop {
        page.gauge("fwknop_stanzas", "Stanzas in access.conf.", number(fwknop.stanzas));
        page.gauge(
            "fwknop_addresses",
            "Addresses that got access by packets of fwknop in the last 24 hours, or since the start.",
            number(fwknop.addresses),
        );
        page.counter(
            "fwknop_accepted_total",
            "Number of packets of fwknop that were accepted.",
            fwknop.accepted,
        );
        page.counter(
            "fwknop_refused_total",
            "Number of authentic packets of fwknop that were refused.",
            fwknop.refused,
        );
    }
    if let Some(fleet) = &status.fleet {
        fleet::add(&mut page, fleet);
    }
    page.begin("knocks_total", MetricKind::Counter, "Authentic knocks, by outcome.");
    for ended in &status.knocks {
        let labels = [("event", ended.event.as_str()), ("reason", ended.reason.as_str())];
        page.sample("knocks_total", &labels, ended.count);
    }
    page.0
}

/// The type of a metric.
enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, MetricKind::Gauge, help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.begin(name, MetricKind::Counter, help);
        self.sample(name, &[], value);
    }

    fn begin(&mut self, name: &str, kind: MetricKind, help: &str) {
        let kind = match kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        self.line(format_args!("# HELP spa_knock_{name} {help}\n# TYPE spa_knock_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.line(format_args!("spa_knock_{name}{labels} {value}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}

/// A label's value, escaped for its quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::control::status::tests::example;

    #[test]
    fn the_page_has_the_text_exposition_format() {
        let expected = r#"# HELP spa_knock_info The program and the server's id.
# TYPE spa_knock_info gauge
spa_knock_info{version="0.1.0",server="bastion.test"} 1
# HELP spa_knock_uptime_seconds Seconds since the daemon started.
# TYPE spa_knock_uptime_seconds gauge
spa_knock_uptime_seconds 93784
# HELP spa_knock_gate_closed 1 while protected ports are closed without a grant, 0 while they are open.
# TYPE spa_knock_gate_closed gauge
spa_knock_gate_closed 1
# HELP spa_knock_gate_trial_seconds Seconds until a gate on trial turns off; 0 without a trial.
# TYPE spa_knock_gate_trial_seconds gauge
spa_knock_gate_trial_seconds 0
# HELP spa_knock_clients Clients that may knock.
# TYPE spa_knock_clients gauge
spa_knock_clients 3
# HELP spa_knock_clients_with_previous_key Clients that have knocked with their previous key.
# TYPE spa_knock_clients_with_previous_key gauge
spa_knock_clients_with_previous_key 1
# HELP spa_knock_actions Actions in the config.
# TYPE spa_knock_actions gauge
spa_knock_actions 2
# HELP spa_knock_grants Active grants.
# TYPE spa_knock_grants gauge
spa_knock_grants 1
# HELP spa_knock_commands_running Commands of actions that are running.
# TYPE spa_knock_commands_running gauge
spa_knock_commands_running 1
# HELP spa_knock_commands_waiting Commands of actions that are waiting to run.
# TYPE spa_knock_commands_waiting gauge
spa_knock_commands_waiting 0
# HELP spa_knock_undo_pending Undo tasks in the queue.
# TYPE spa_knock_undo_pending gauge
spa_knock_undo_pending 4
# HELP spa_knock_audit_up 1 while the audit log can be written.
# TYPE spa_knock_audit_up gauge
spa_knock_audit_up 1
# HELP spa_knock_audit_waiting Audit records not written yet.
# TYPE spa_knock_audit_waiting gauge
spa_knock_audit_waiting 0
# HELP spa_knock_audit_lost_total Audit records lost.
# TYPE spa_knock_audit_lost_total counter
spa_knock_audit_lost_total 3
# HELP spa_knock_log_lost_total Lines of the daemon's log lost because standard error was not read.
# TYPE spa_knock_log_lost_total counter
spa_knock_log_lost_total 2
# HELP spa_knock_watcher_up 1 while a watcher is running.
# TYPE spa_knock_watcher_up gauge
spa_knock_watcher_up 1
# HELP spa_knock_watcher_restarts_total Number of times the watcher was replaced.
# TYPE spa_knock_watcher_restarts_total counter
spa_knock_watcher_restarts_total 1
# HELP spa_knock_watcher_report_age_seconds Seconds since the watcher's last report.
# TYPE spa_knock_watcher_report_age_seconds gauge
spa_knock_watcher_report_age_seconds 0
# HELP spa_knock_capture_missing_interfaces Configured interfaces that do not exist or are down.
# TYPE spa_knock_capture_missing_interfaces gauge
spa_knock_capture_missing_interfaces 0
# HELP spa_knock_replies_possible 0 while another process uses the knock port.
# TYPE spa_knock_replies_possible gauge
spa_knock_replies_possible 1
# HELP spa_knock_capture_received_total Frames that passed the kernel's filter.
# TYPE spa_knock_capture_received_total counter
spa_knock_capture_received_total 1207
# HELP spa_knock_capture_dropped_total Frames missed because the watcher was too slow.
# TYPE spa_knock_capture_dropped_total counter
spa_knock_capture_dropped_total 0
# HELP spa_knock_capture_interface_dropped_total Frames missed by an interface.
# TYPE spa_knock_capture_interface_dropped_total counter
spa_knock_capture_interface_dropped_total 2
# HELP spa_knock_datagrams_total Datagrams of a knock's length, by verdict.
# TYPE spa_knock_datagrams_total counter
spa_knock_datagrams_total{verdict="authentic"} 7
spa_knock_datagrams_total{verdict="unknown-hint"} 1200
spa_knock_datagrams_total{verdict="forged"} 3
spa_knock_datagrams_total{verdict="duplicate"} 1
spa_knock_datagrams_total{verdict="bad-length"} 0
spa_knock_datagrams_total{verdict="throttled"} 8
# HELP spa_knock_throttled_total Knocks over the rate limit of their key, by client.
# TYPE spa_knock_throttled_total counter
spa_knock_throttled_total{client="ci"} 8
# HELP spa_knock_signatures_refused_total Knocks refused for their SSH signature, by client.
# TYPE spa_knock_signatures_refused_total counter
spa_knock_signatures_refused_total{client="laptop"} 3
# HELP spa_knock_port_hits_total Port hits in the knock range.
# TYPE spa_knock_port_hits_total counter
spa_knock_port_hits_total 24
# HELP spa_knock_port_sequences_total Port sequences checked.
# TYPE spa_knock_port_sequences_total counter
spa_knock_port_sequences_total 1
# HELP spa_knock_legacy_doors Doors in knockd.conf.
# TYPE spa_knock_legacy_doors gauge
spa_knock_legacy_doors 2
# HELP spa_knock_legacy_addresses Addresses that opened a door of knockd.conf in the last 24 hours, or since the start.
# TYPE spa_knock_legacy_addresses gauge
spa_knock_legacy_addresses 2
# HELP spa_knock_legacy_opened_total Number of times a knock sequence opened a door.
# TYPE spa_knock_legacy_opened_total counter
spa_knock_legacy_opened_total 9
# HELP spa_knock_fwknop_stanzas Stanzas in access.conf.
# TYPE spa_knock_fwknop_stanzas gauge
spa_knock_fwknop_stanzas 3
# HELP spa_knock_fwknop_addresses Addresses that got access by packets of fwknop in the last 24 hours, or since the start.
# TYPE spa_knock_fwknop_addresses gauge
spa_knock_fwknop_addresses 1
# HELP spa_knock_fwknop_accepted_total Number of packets of fwknop that were accepted.
# TYPE spa_knock_fwknop_accepted_total counter
spa_knock_fwknop_accepted_total 6
# HELP spa_knock_fwknop_refused_total Number of authentic packets of fwknop that were refused.
# TYPE spa_knock_fwknop_refused_total counter
spa_knock_fwknop_refused_total 1
# HELP spa_knock_fleet_store_up 1 while the store of the fleet answers, and is the one that was seen before.
# TYPE spa_knock_fleet_store_up gauge
spa_knock_fleet_store_up 1
# HELP spa_knock_fleet_store_silent_seconds Seconds since the store last answered.
# TYPE spa_knock_fleet_store_silent_seconds gauge
spa_knock_fleet_store_silent_seconds 0.240
# HELP spa_knock_fleet_policy_revision Revision of the store up to which clients are known.
# TYPE spa_knock_fleet_policy_revision gauge
spa_knock_fleet_policy_revision 118
# HELP spa_knock_fleet_members Live members of the fleet.
# TYPE spa_knock_fleet_members gauge
spa_knock_fleet_members 3
# HELP spa_knock_fleet_clock_offset_seconds Clock of each member minus the median of all.
# TYPE spa_knock_fleet_clock_offset_seconds gauge
spa_knock_fleet_clock_offset_seconds{member="b1"} 0.000
spa_knock_fleet_clock_offset_seconds{member="b2"} -4.100
spa_knock_fleet_clock_offset_seconds{member="b3"} 0.020
# HELP spa_knock_fleet_waiting Knocks that wait for the store.
# TYPE spa_knock_fleet_waiting gauge
spa_knock_fleet_waiting 0
# HELP spa_knock_fleet_claims_total Claims in the store, by result.
# TYPE spa_knock_fleet_claims_total counter
spa_knock_fleet_claims_total{result="won"} 41
spa_knock_fleet_claims_total{result="lost"} 2
spa_knock_fleet_claims_total{result="unknown"} 0
# HELP spa_knock_fleet_claim_seconds How long the store took to answer claims.
# TYPE spa_knock_fleet_claim_seconds histogram
spa_knock_fleet_claim_seconds_bucket{le="0.002500"} 40
spa_knock_fleet_claim_seconds_bucket{le="1.000000"} 43
spa_knock_fleet_claim_seconds_bucket{le="+Inf"} 43
spa_knock_fleet_claim_seconds_sum 0.110000
spa_knock_fleet_claim_seconds_count 43
# HELP spa_knock_knocks_total Authentic knocks, by outcome.
# TYPE spa_knock_knocks_total counter
spa_knock_knocks_total{event="granted",reason=""} 4
spa_knock_knocks_total{event="done",reason=""} 0
spa_knock_knocks_total{event="stale",reason="stale"} 1
spa_knock_knocks_total{event="refused",reason="not-allowed"} 2
spa_knock_knocks_total{event="refused",reason="expired"} 1
"#;
        assert_eq!(exposition(&example()), expected);
        let mut udp = example();
        udp.capture.frames = None;
        assert!(!exposition(&udp).contains("_dropped"));
    }

    #[test]
    fn each_metric_is_described_once_before_its_samples() {
        let page = exposition(&example());
        let mut described = BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(described.insert(rest.split(' ').next().unwrap().to_owned()), "{line}");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                // A histogram consists of these.
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
                let known = described.contains(name) || base.is_some_and(|base| described.contains(base));
                assert!(known, "{line}");
            }
        }
    }

    #[test]
    fn the_dashboard_uses_only_existing_metrics() {
        let dashboard = include_str!("../../contrib/grafana-dashboard.json");
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let used = dashboard.split(|c: char| !is_name(c)).filter(|word| word.starts_with("spa_knock_"));
        let used: BTreeSet<&str> = used.collect();
        let page = exposition(&example());
        let metrics: BTreeSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert!(used.len() > 10 && used.is_subset(&metrics), "{:?}", used.difference(&metrics));
    }

    proptest! {
        #[test]
        fn no_label_breaks_out_of_its_quotes(value in "[a\\\\\"\n]{0,12}") {
            let text = escaped(&value);
            prop_assert!(!text.contains('\n'));
            let (mut read, mut letters) = (String::new(), text.chars());
            while let Some(letter) = letters.next() {
                prop_assert_ne!(letter, '"');
                read.push(match letter {
                    '\\' => match letters.next() { Some('n') => '\n', Some(other) => other, None => panic!("{text}") },
                    letter => letter,
                });
            }
            prop_assert_eq!(read, value);
        }
    }
}
