//! What spa-knock aims at, and what a run has reached.

use std::fmt::Write as _;

use crate::results::{FloodResult, Results, Times, spread};

/// Growth of a process during a flood, in KiB, that is the noise of shared pages.
const FLAT: u64 = 256;
/// Largest process at rest, in KiB.
const AT_REST: u64 = 8 << 10;
/// CPU time for each forged packet, in microseconds, at more than this many per second.
const CPU_US: f64 = 0.3;
const CPU_RATE: u64 = 100_000;

/// Writes the table.
pub(crate) fn write(text: &mut String, results: &Results) {
    text.push_str("\n## Targets\n\n| spa-knock aims at | measured | |\n|---|---|---|\n");
    for (aim, measured, verdict) in rows(results) {
        writeln!(text, "| {aim} | {measured} | {verdict} |").unwrap();
    }
}

/// An aim, what was measured, and the verdict.
type Row = (String, String, &'static str);

const fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "**missed**" }
}

fn rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for (tool, factor, part) in [
        ("fwknop", 20.0, "first frame"),
        ("knockd", 20.0, "first frame"),
        ("letmein-tcp", 1.5, "whole client"),
        ("letmein-udp", 1.5, "whole client"),
    ] {
        let of =
            |times: &Times| if part == "whole client" { times.whole.clone() } else { times.wire.clone() };
        let median = |key: &str| {
            let times = results.times.iter().find(|times| times.peer == key)?;
            Some(spread(&of(times))?[1])
        };
        if let (Some(theirs), Some(ours)) = (median(tool), median("spa-knock-pcap")) {
            let ratio = theirs / ours;
            rows.push((
                format!("knock to open ({part}): {factor} times as fast as {tool}"),
                format!("{ratio:.1} times"),
                verdict(ratio >= factor),
            ));
        }
    }
    for (peer, rate) in [("spa-knock-pcap", 500_000), ("spa-knock-kernel-filter", 900_000)] {
        for floods in by_forgery(results).filter(|floods| floods[0].peer == peer) {
            let is_open = |flood: &&&FloodResult| flood.opened == flood.knocks;
            let lost = floods.iter().filter(|flood| !is_open(flood)).map(|flood| flood.rate).reduce(f64::min);
            let fastest = floods.iter().filter(is_open).map(|flood| flood.rate).fold(0.0, f64::max);
            let bare = results.bare.as_ref().map_or(0.0, |bare| bare.sent as f64 / bare.seconds);
            let measured = format!(
                "all open at {fastest:.0}, {:.0} % of what a rule that drops everything lets the sender send",
                fastest / bare * 100.0
            );
            let aim =
                format!("every honest knock opens at {rate} forged packets per second: {}", name(floods[0]));
            let verdict = match lost {
                None if fastest < rate as f64 => "not shown: the sender was not faster",
                lost => verdict(lost.is_none()),
            };
            rows.push((aim, measured, verdict));
        }
    }
    for floods in by_forgery(results) {
        let fast = floods.iter().filter(|flood| flood.asked > CPU_RATE);
        let times: Vec<f64> = fast.map(|flood| flood.cpu_us).collect();
        let (Some(least), Some(most)) =
            (times.iter().copied().reduce(f64::min), times.iter().copied().reduce(f64::max))
        else {
            continue;
        };
        let aim = format!(
            "at most {CPU_US} µs of CPU time for each forged packet above {CPU_RATE} per second: {}",
            name(floods[0])
        );
        rows.push((aim, format!("{least:.2} to {most:.2} µs"), verdict(most <= CPU_US)));
    }
    let memory: Vec<_> = results.memory.iter().filter(|row| row.peer.starts_with("spa-knock")).collect();
    let largest = |at_rest: bool| {
        let rows = memory.iter().filter(|row| (row.forged == 0) == at_rest);
        rows.flat_map(|row| &row.processes).map(|process| process.pss_kib).max().unwrap_or(0)
    };
    rows.push((
        format!("at most {} MiB for each process at rest", AT_REST >> 10),
        format!("at most {:.1} MiB", largest(true) as f64 / 1_024.0),
        verdict(largest(true) <= AT_REST),
    ));
    let growth = memory.iter().filter(|row| row.forged > 0).flat_map(|row| {
        let before = memory.iter().find(|before| before.peer == row.peer && before.forged == 0);
        let before = before.into_iter().flat_map(|before| &before.processes);
        before.zip(&row.processes).map(|(before, now)| now.pss_kib.saturating_sub(before.pss_kib))
    });
    let growth = growth.max().unwrap_or(0);
    rows.push((
        "no more after the floods".to_owned(),
        format!("at most {growth} KiB more"),
        verdict(growth <= FLAT),
    ));
    rows
}

/// The floods of each mode of spa-knock with each kind of forged packets.
fn by_forgery(results: &Results) -> impl Iterator<Item = Vec<&FloodResult>> {
    let mut groups: Vec<Vec<&FloodResult>> = Vec::new();
    for flood in results.floods.iter().filter(|flood| flood.peer.starts_with("spa-knock")) {
        let same = |group: &&mut Vec<&FloodResult>| {
            (&group[0].peer, &group[0].forgery) == (&flood.peer, &flood.forgery)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(flood),
            None => groups.push(vec![flood]),
        }
    }
    groups.into_iter()
}

fn name(flood: &FloodResult) -> String {
    format!("{}, {}", flood.title, flood.forgery)
}
