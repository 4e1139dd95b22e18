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
    let mut line = |aim: &str, measured: String, is_reached: bool| {
        let verdict = if is_reached { "reached" } else { "**missed**" };
        writeln!(text, "| {aim} | {measured} | {verdict} |").unwrap();
    };
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
            line(
                &format!("knock to open ({part}): {factor} times as fast as {tool}"),
                format!("{ratio:.1} times"),
                ratio >= factor,
            );
        }
    }
    let ours = |flood: &&FloodResult| flood.peer.starts_with("spa-knock");
    for (peer, rate) in [("spa-knock-pcap", 500_000), ("spa-knock-kernel-filter", 900_000)] {
        for flood in results.floods.iter().filter(|flood| flood.peer == peer && flood.asked == rate) {
            line(
                &format!(
                    "every honest knock opens at {rate} forged packets per second: {}, {}",
                    flood.title, flood.forgery
                ),
                format!("{} of {} at {:.0}", flood.opened, flood.knocks, flood.rate),
                flood.opened == flood.knocks,
            );
        }
    }
    let fast = results.floods.iter().filter(ours).filter(|flood| flood.asked > CPU_RATE);
    if let Some(worst) = fast.max_by(|a, b| a.cpu_us.total_cmp(&b.cpu_us)) {
        line(
            &format!("at most {CPU_US} µs of CPU time for each forged packet above {CPU_RATE} per second"),
            format!(
                "at most {:.2} µs ({}, {}, {:.0} per second)",
                worst.cpu_us, worst.title, worst.forgery, worst.rate
            ),
            worst.cpu_us <= CPU_US,
        );
    }
    let memory: Vec<_> = results.memory.iter().filter(|row| row.peer.starts_with("spa-knock")).collect();
    let largest = |at_rest: bool| {
        let rows = memory.iter().filter(|row| (row.forged == 0) == at_rest);
        rows.flat_map(|row| &row.processes).map(|process| process.pss_kib).max().unwrap_or(0)
    };
    line(
        &format!("at most {} MiB for each process at rest", AT_REST >> 10),
        format!("at most {:.1} MiB", largest(true) as f64 / 1_024.0),
        largest(true) <= AT_REST,
    );
    let growth = memory.iter().filter(|row| row.forged > 0).flat_map(|row| {
        let before = memory.iter().find(|before| before.peer == row.peer && before.forged == 0);
        let before = before.into_iter().flat_map(|before| &before.processes);
        before.zip(&row.processes).map(|(before, now)| now.pss_kib.saturating_sub(before.pss_kib))
    });
    let growth = growth.max().unwrap_or(0);
    line("no more after the floods", format!("at most {growth} KiB more"), growth <= FLAT);
}
