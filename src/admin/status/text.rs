//! The human-readable status of a daemon: short lines, with colors for what needs attention.

use std::time::Duration;

use super::fleet_line;
use crate::console::{Color, counted, listed, own_command};
use crate::control::status::{DaemonStatus, GateMode, LegacyUser, RefusedSignatures};
use crate::firewall::FirewallMode;

/// A report that is older, in seconds, is late: an idle watcher reports every 10 s.
const REPORT_LATE: u64 = 12;

/// The meaning of a color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Notice,
    Bad,
}

impl Color {
    pub(super) fn paint(self, tone: Tone, text: String) -> String {
        // ECMA-48, SGR: green, yellow, red.
        let code = match tone {
            Tone::Good => 32,
            Tone::Notice => 33,
            Tone::Bad => 31,
        };
        match self {
            Self::On => format!("\x1b[{code}m{text}\x1b[0m"),
            Self::Off => text,
        }
    }
}

/// The lines of `spa-knockd status`.
pub(crate) fn text(status: &DaemonStatus, color: Color) -> String {
    let commands = status.commands;
    let lines = [
        ("running", format!("{}, pid {}", lasting(status.uptime), status.pid)),
        ("gate", gate(status, color)),
        ("knocks", knocks(status)),
        ("clients", clients(status, color)),
        ("grants", format!("{} active", status.grants)),
        (
            "commands",
            format!(
                "{} running, {} waiting; {} in the undo queue",
                commands.running, commands.waiting, status.pending_undo
            ),
        ),
        ("watcher", watcher(status, color)),
        ("audit", audit(status, color)),
        ("capture", capture(status, color)),
        ("datagrams", datagrams(status)),
    ];
    let mut text = format!("spa-knockd {}: {}\n", status.version, status.server);
    let health = health(status, color).map(|line| ("health", line));
    let ports = ports(status).map(|line| ("ports", line));
    let legacy = legacy(status, color).map(|line| ("legacy", line));
    let fwknop = fwknop(status, color).map(|line| ("fwknop", line));
    let fleet = fleet_line::line(status, color).map(|line| ("fleet", line));
    let more = health.into_iter().chain(ports).chain(legacy).chain(fwknop).chain(fleet);
    for (name, line) in lines.into_iter().chain(more) {
        text.push_str(&format!("  {name:<9}  {line}\n"));
    }
    text
}

/// The state of the gate, and the ports that it closes.
pub(super) fn gate(status: &DaemonStatus, color: Color) -> String {
    let ports = listed(&status.gate.protect);
    let mark = status.gate.mark.as_ref().and_then(|mark| mark.parse().ok());
    let mode = mark.map_or(FirewallMode::Guard, FirewallMode::Mark);
    let closed = mode.when_on(&ports);
    match status.gate.state {
        GateMode::On => format!("{}; {closed}", color.paint(Tone::Good, "on".to_owned())),
        GateMode::Off => color.paint(Tone::Bad, format!("off; {}", mode.when_off())),
        GateMode::Trial => {
            let left = lasting(status.gate.seconds_left.unwrap_or_default());
            let trial = color.paint(Tone::Notice, format!("on trial, turns off in {left}"));
            format!("{trial}; {closed}")
        }
    }
}

fn knocks(status: &DaemonStatus) -> String {
    let ended = status.knocks.iter().filter(|ended| ended.count > 0).map(|ended| {
        match (ended.event.as_str(), ended.reason.as_str()) {
            ("refused", reason) => format!("{} refused ({reason})", ended.count),
            (event, _) => format!("{} {event}", ended.count),
        }
    });
    let ended: Vec<String> = ended.collect();
    if ended.is_empty() { "none yet".to_owned() } else { ended.join(", ") }
}

fn clients(status: &DaemonStatus, color: Color) -> String {
    let mut text = format!("{} configured; {}", status.clients, counted(status.actions, "action"));
    let previous: Vec<String> =
        status.previous_keys.iter().map(|user| format!("{} ({}x)", user.client, user.uses)).collect();
    if !previous.is_empty() {
        let users = format!("still using a previous key: {}", previous.join(", "));
        text.push_str(&format!("; {}", color.paint(Tone::Notice, users)));
    }
    if !status.throttled.is_empty() {
        let all = status
            .throttled
            .iter()
            .map(|client| format!("{} ({})", client.client, counted(client.count, "knock")));
        let all = format!("over the rate limit: {}", all.collect::<Vec<_>>().join(", "));
        text.push_str(&format!("; {}", color.paint(Tone::Notice, all)));
    }
    if !status.signatures.is_empty() {
        let all = status.signatures.iter().map(|client| {
            let RefusedSignatures { client, count } = client;
            let rotate = own_command(&format!("client rotate {client} --overlap 0s"));
            format!("{client} ({}; hint: {rotate})", counted(*count, "knock"))
        });
        let all = format!("refused for their SSH signature: {}", all.collect::<Vec<_>>().join(", "));
        text.push_str(&format!("; {}", color.paint(Tone::Notice, all)));
    }
    text
}

fn watcher(status: &DaemonStatus, color: Color) -> String {
    let state = match (status.watcher.uptime, status.watcher.report_age.unwrap_or_default()) {
        (Some(uptime), age) if age > REPORT_LATE => {
            let late = format!("no report for {}", lasting(age));
            format!("running for {}; {}", lasting(uptime), color.paint(Tone::Bad, late))
        }
        (Some(uptime), _) => format!("running for {}", lasting(uptime)),
        (None, _) => color.paint(Tone::Bad, "not running; restarting it".to_owned()),
    };
    match status.watcher.restarts {
        0 => state,
        restarts => format!("{state}; {}", color.paint(Tone::Notice, format!("replaced {restarts}x"))),
    }
}

fn health(status: &DaemonStatus, color: Color) -> Option<String> {
    Some(match status.health.as_deref()? {
        "ok" => "ok".to_owned(),
        problem => color.paint(Tone::Bad, format!("checks fail: {problem}")),
    })
}

fn audit(status: &DaemonStatus, color: Color) -> String {
    let notice = |text: String| color.paint(Tone::Notice, text);
    let mut text = match &status.audit {
        None => "off".to_owned(),
        Some(audit) => {
            let mut text = match &audit.error {
                None => "written".to_owned(),
                Some(error) => {
                    let state = format!("cannot be written: {error}");
                    format!("{}; {} waiting", color.paint(Tone::Bad, state), counted(audit.waiting, "record"))
                }
            };
            if audit.lost > 0 {
                text.push_str(&format!("; {}", notice(format!("{} lost", counted(audit.lost, "record")))));
            }
            text
        }
    };
    if status.log.lost > 0 {
        text.push_str(&format!("; {}", notice(format!("{} lost", counted(status.log.lost, "log line")))));
    }
    text
}

fn capture(status: &DaemonStatus, color: Color) -> String {
    let capture = &status.capture;
    let mut place = format!("{}, udp/{} on {}", capture.kind, capture.port, capture.interfaces.join(", "));
    if !capture.missing.is_empty() {
        let missing = format!("missing: {}", capture.missing.join(", "));
        place.push_str(&format!("; {}", color.paint(Tone::Bad, missing)));
    }
    if !capture.replies {
        let occupied = format!("no replies: another process uses udp/{}", capture.port);
        place.push_str(&format!("; {}", color.paint(Tone::Bad, occupied)));
    }
    if let Some(is_on) = capture.hint_filter {
        place.push_str(if is_on { "; hint filter on" } else { "; hint filter off" });
    }
    let Some(frames) = capture.frames else { return place };
    let dropped = format!("{} dropped, {} by the interface", frames.dropped, frames.if_dropped);
    let dropped = if frames.dropped.saturating_add(frames.if_dropped) > 0 {
        color.paint(Tone::Notice, dropped)
    } else {
        dropped
    };
    format!("{place}; {}, {dropped}", counted(frames.received, "frame"))
}

fn datagrams(status: &DaemonStatus) -> String {
    let datagrams = status.datagrams;
    format!(
        "{} authentic, {} with an unknown hint, {} forged, {}, {} over a limit, {} of invalid length",
        datagrams.authentic,
        datagrams.unknown_hint,
        datagrams.forged,
        counted(datagrams.duplicates, "duplicate"),
        datagrams.throttled,
        datagrams.bad_length
    )
}

fn ports(status: &DaemonStatus) -> Option<String> {
    let ports = status.ports.as_ref()?;
    let (hits, sequences) = (ports.hits, ports.sequences);
    let (hits, sequences) = (counted(hits, "port hit"), counted(sequences, "sequence"));
    Some(format!("{}; {hits}, {sequences} checked", ports.range))
}

fn legacy(status: &DaemonStatus, color: Color) -> Option<String> {
    let legacy = status.legacy.as_ref()?;
    let (count, opened) = (counted(legacy.doors, "knockd door"), counted(legacy.opened, "time"));
    let users = users(&legacy.users, legacy.addresses, legacy.other_openings, color);
    Some(format!("{count}, opened {opened} by knock sequences; in the last 24 h by {users}"))
}

fn fwknop(status: &DaemonStatus, color: Color) -> Option<String> {
    let fwknop = status.fwknop.as_ref()?;
    let (count, accepted) = (counted(fwknop.stanzas, "stanza"), counted(fwknop.accepted, "packet"));
    let users = users(&fwknop.users, fwknop.addresses, fwknop.other_openings, color);
    Some(format!("{count}, {accepted} accepted, {} refused; in the last 24 h for {users}", fwknop.refused))
}

/// Who still uses a legacy protocol.
fn users(busiest: &[LegacyUser], addresses: usize, others: u64, color: Color) -> String {
    if addresses == 0 {
        return color.paint(Tone::Good, "no one".to_owned());
    }
    let users = busiest.iter().map(|user| format!("{} ({}x)", user.address, user.opened));
    let mut users = users.collect::<Vec<_>>().join(", ");
    let more = addresses.saturating_sub(busiest.len());
    if more > 0 {
        users.push_str(&format!(" and {}", counted(more, "other address")));
    }
    if others > 0 {
        users.push_str(&format!(", and {others}x by others"));
    }
    color.paint(Tone::Notice, users)
}

/// A duration in its two largest units.
fn lasting(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::status::AuditState;
    use crate::control::status::tests::example;

    #[test]
    fn a_status_has_short_lines() {
        let expected = "\
spa-knockd 0.1.0: bastion.test
  running    1day 2h, pid 4711
  gate       on; tcp/22 closed without a grant
  knocks     4 granted, 1 stale, 2 refused (not-allowed), 1 refused (expired)
  clients    3 configured; 2 actions; still using a previous key: phone (2x); over the rate limit: ci (8 knocks); refused for their SSH signature: laptop (3 knocks; hint: spa-knockd client rotate laptop --overlap 0s)
  grants     1 active
  commands   1 running, 0 waiting; 4 in the undo queue
  watcher    running for 1h; replaced 1x
  audit      written; 3 records lost; 2 log lines lost
  capture    pcap, udp/62201 on lan0, wg0; 1207 frames, 0 dropped, 2 by the interface
  datagrams  7 authentic, 1200 with an unknown hint, 3 forged, 1 duplicate, 8 over a limit, 0 of invalid length
  health     ok
  ports      20480-28671; 24 port hits, 1 sequence checked
  legacy     2 knockd doors, opened 9 times by knock sequences; in the last 24 h by 10.0.0.1 (5x), fd00::2 (1x)
  fwknop     3 stanzas, 6 packets accepted, 1 refused; in the last 24 h for 10.0.0.3 (6x)
  fleet      prod: 3 members (b2 is 4.1 s behind, b3 has another policy), store 2/3, policy 118, claims 41 won 2 lost 0 unknown, p50 2.3 ms
";
        assert_eq!(text(&example(), Color::Off), expected);
    }

    #[test]
    fn colors_change_only_the_color_codes() {
        let mut status = example();
        for (state, seconds_left) in
            [(GateMode::On, None), (GateMode::Off, None), (GateMode::Trial, Some(90))]
        {
            status.gate.state = state;
            status.gate.seconds_left = seconds_left;
            let mut plain = text(&status, Color::On);
            for code in ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"] {
                plain = plain.replace(code, "");
            }
            assert_eq!(plain, text(&status, Color::Off));
        }
        status.audit = Some(AuditState { waiting: 7, lost: 0, error: Some("/a: no space left".to_owned()) });
        status.log.lost = 0;
        let shown = text(&status, Color::Off);
        assert!(
            shown.contains("  audit      cannot be written: /a: no space left; 7 records waiting\n"),
            "{shown}"
        );
        status.health = Some("gate off".to_owned());
        assert!(text(&status, Color::On).contains("  health     \x1b[31mchecks fail: gate off\x1b[0m\n"));
        status.health = None;
        assert!(!text(&status, Color::On).contains("health"));
        status.capture.kind = "udp".to_owned();
        status.capture.frames = None;
        for (hint_filter, shown) in [(true, "hint filter on"), (false, "hint filter off")] {
            status.capture.hint_filter = Some(hint_filter);
            let line = format!("  capture    udp, udp/62201 on lan0, wg0; {shown}\n");
            assert!(text(&status, Color::On).contains(&line), "{line}");
        }
        status.watcher.uptime = None;
        assert!(text(&status, Color::On).contains("\x1b[31mnot running;"));
    }
}
