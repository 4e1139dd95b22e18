//! Pictures of the numbers, drawn by gnuplot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::results::{FloodResult, Results, spread};

/// A line for each tool, mode and kind of forged packets: its title, and points.
type Lines = BTreeMap<String, Vec<(f64, f64)>>;

/// Draws each picture for which there are numbers into `folder`.
pub(crate) fn draw(folder: &Path, results: &Results) {
    let times: Vec<(String, [f64; 2])> = results
        .times
        .iter()
        .filter_map(|times| {
            let median = |times: &[f64]| Some(spread(times)?[1] / 1e3);
            Some((times.title.clone(), [median(&times.whole)?, median(&times.wire)?]))
        })
        .collect();
    if !times.is_empty() {
        bars(folder, &times);
    }
    let floods = |value: fn(&FloodResult) -> f64| lines(&results.floods, value);
    if results.floods.len() > 1 {
        let opened = floods(|flood| 100.0 * flood.opened as f64 / flood.knocks as f64);
        plot(
            &folder.join("floods.svg"),
            "Honest knocks that open during a flood",
            ["forged packets per second", "opened (%)"],
            "set logscale x\nset yrange [-5:105]\n",
            &opened,
        );
        plot(
            &folder.join("cpu.svg"),
            "CPU time of the daemons during a flood",
            ["forged packets per second", "CPU time (% of one core)"],
            "set logscale x\nset yrange [0:]\n",
            &floods(|flood| 100.0 * flood.cpu_share),
        );
    }
    let mut clients = Lines::new();
    for row in results.clients.iter().filter(|row| row.start_ms.is_some()) {
        clients.entry(row.title.clone()).or_default().push((row.clients as f64, row.cpu_us));
    }
    if clients.values().any(|points| points.len() > 1) {
        plot(
            &folder.join("clients.svg"),
            "CPU time for each forged packet, with many clients",
            ["clients", "µs"],
            "set logscale xy\n",
            &clients,
        );
    }
}

fn lines(floods: &[FloodResult], value: fn(&FloodResult) -> f64) -> Lines {
    let mut lines = Lines::new();
    for flood in floods {
        let kind = if flood.forgery == "recorded-hint" { " (recorded hint)" } else { "" };
        lines.entry(format!("{}{kind}", flood.title)).or_default().push((flood.rate, value(flood)));
    }
    lines
}

fn plot(file: &Path, title: &str, [x, y]: [&str; 2], settings: &str, lines: &Lines) {
    let mut script = head(file, title);
    write!(script, "set xlabel '{x}'\nset ylabel '{y}'\nset grid\nset key outside right\n{settings}")
        .unwrap();
    let mut data = String::new();
    for (n, points) in lines.values().enumerate() {
        writeln!(data, "$line{n} << EOD").unwrap();
        for (x, y) in points {
            writeln!(data, "{x} {y}").unwrap();
        }
        writeln!(data, "EOD").unwrap();
    }
    let plots: Vec<String> = lines
        .keys()
        .enumerate()
        .map(|(n, title)| {
            format!("$line{n} with linespoints linewidth 2 pointtype 7 pointsize 0.5 title '{title}'")
        })
        .collect();
    run(&format!("{data}{script}plot {}\n", plots.join(", ")));
}

fn bars(folder: &Path, times: &[(String, [f64; 2])]) {
    let mut script = head(&folder.join("times.svg"), "Knock to open, median");
    script += "set ylabel 'ms'\nset logscale y\nset yrange [0.1:]\nset grid ytics\nset key below center horizontal\n\
               set xtics rotate by -20\nset style data histograms\nset style fill solid 0.8 noborder\nset boxwidth 0.9\n";
    let mut data = "$times << EOD\n".to_owned();
    for (title, [whole, wire]) in times {
        writeln!(data, "\"{title}\" {whole} {wire}").unwrap();
    }
    data += "EOD\n";
    run(&format!(
        "{data}{script}plot $times using 2:xtic(1) title 'from the start of the client', \
         $times using 3 title 'from its first frame'\n"
    ));
}

fn head(file: &Path, title: &str) -> String {
    format!(
        "set terminal svg size 800,420 font 'sans-serif,13' background '#ffffff'\nset output '{}'\nset title '{title}'\n",
        file.display()
    )
}

fn run(script: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), script).unwrap();
    let status = Command::new("gnuplot").arg(file.path()).status().unwrap();
    assert!(status.success(), "gnuplot: {status}");
}
