//! The page of the documentation. Every number in it comes from the results; what a sentence claims about them is
//! computed.

use std::fmt::Write as _;

use crate::layout::{mib, thousands, titles, wrapped};
use crate::peer::Peer;
use crate::results::{Clients, FloodResult, Kill, Replay, Results, Times, spread};
use crate::targets;

const HEAD: &str = "\
# How it compares

Figures of spa-knock and of what it replaces: fwknop, knockd and letmein. One command measures all of them in one run,
in the same two network namespaces, and writes this page:

<!-- not run: it takes 20 minutes and needs root -->
```
scripts/compare
```

`scripts/compare --quick` takes a small sample in a minute and changes nothing here. The raw numbers are in
[results.json](results.json). Compare ratios, not absolute numbers: your machine is another one.
";

/// The whole page.
pub(crate) fn text(results: &Results, peers: &[&'static dyn Peer]) -> String {
    let mut text = HEAD.to_owned();
    machine(&mut text, results);
    if results.times.len() > 1 && !results.floods.is_empty() && !results.memory.is_empty() {
        targets::write(&mut text, results);
    }
    if !results.times.is_empty() {
        times(&mut text, &results.times);
    }
    if !results.floods.is_empty() {
        floods(&mut text, results);
    }
    memory(&mut text, results);
    if !results.clients.is_empty() {
        clients(&mut text, &results.clients);
    }
    if !results.replays.is_empty() {
        replays(&mut text, &results.replays);
    }
    if !results.kills.is_empty() {
        kills(&mut text, &results.kills);
    }
    configurations(&mut text, peers);
    wrapped(&text)
}

fn machine(text: &mut String, results: &Results) {
    let machine = &results.machine;
    let sample = if results.sample == "full" {
        "the full one"
    } else {
        "**a small sample**: run `scripts/compare` for the full one"
    };
    let virtual_machine =
        machine.hypervisor.as_ref().map_or_else(String::new, |kind| format!(", a virtual machine ({kind})"));
    writeln!(
        text,
        "\n## The machine and the versions\n\n| | |\n|---|---|\n| run | {sample}; {} s, {}, commit `{}` |\n| machine | {}, {} cores, {} MiB{virtual_machine} |\n| system | {}, {} |",
        results.seconds, machine.date, machine.commit, machine.processor, machine.cores, machine.memory_mib, machine.system, machine.kernel
    )
    .unwrap();
    writeln!(text, "| load before the run | {:.1}; on an idle machine it is below 1 |", machine.load)
        .unwrap();
    for (name, version) in &machine.versions {
        writeln!(text, "| {name} | {version} |").unwrap();
    }
    if !results.failures.is_empty() {
        writeln!(text, "\nThese measurements have failed: {}.", results.failures.join("; ")).unwrap();
    }
}

fn times(text: &mut String, all: &[Times]) {
    text.push_str(
        "\n## Knock to open\n\nFrom a knock to the first accepted TCP connection, without a flood. Each knock comes from another address. The \
         tools take turns. \"Whole client\" begins with the start of the client's process. \"First frame\" begins when the kernel sends the \
         first frame of the knock. A loop sends SYNs until one is accepted, each for at most 0.2 ms, which is the resolution.\n\n\
         ![Knock to open](times.svg)\n\n| | knocks | whole client: min | median | p99 | first frame: min | median | p99 |\n|---|---|---|---|---|---|---|---|\n",
    );
    for times in all {
        let [whole, wire] = [&times.whole, &times.wire].map(|times| row(times));
        let failed =
            if times.failed == 0 { String::new() } else { format!(", {} opened nothing", times.failed) };
        writeln!(
            text,
            "| {} | {}{failed} | {whole} | {wire} |",
            times.title,
            times.whole.len() + times.failed
        )
        .unwrap();
    }
    let Some(ours) = all.iter().find(|times| times.tool == "spa-knock") else { return };
    text.push_str("\nRatios of the medians to spa-knock's, which is 1:\n\n| | whole client | first frame |\n|---|---|---|\n");
    for times in all {
        let ratio = |theirs: &[f64], ours: &[f64]| match (spread(theirs), spread(ours)) {
            (Some([_, theirs, _]), Some([_, ours, _])) => format!("{:.1}", theirs / ours),
            _ => "–".to_owned(),
        };
        writeln!(
            text,
            "| {} | {} | {} |",
            times.title,
            ratio(&times.whole, &ours.whole),
            ratio(&times.wire, &ours.wire)
        )
        .unwrap();
    }
}

fn row(times: &[f64]) -> String {
    spread(times).map_or_else(
        || "– | – | –".to_owned(),
        |numbers| numbers.map(|micros| format!("{:.2} ms", micros / 1e3)).join(" | "),
    )
}

fn floods(text: &mut String, results: &Results) {
    text.push_str(
        "\n## Floods\n\nForged packets have the format and the length of the tool's own, and a wrong MAC. They come from spoofed addresses. \
         One thread on one core sends them with `sendmmsg` and counts what the cable takes. All other processes, also the daemons, use all cores. The kernel receives a \
         frame on the core that has sent it, so the flood fills one core, as one receive queue of a network card does. During the flood, honest clients knock with their defaults, each from its own address. A knock that opens its port within three \
         seconds, while the flood continues, is a success.\n\n\
         The CPU time is that of all processes of the tool, from `/proc`, before the first honest knock. It is divided by the packets that \
         were sent, also by those that the tool never got to see. So look at both columns: a daemon that loses packets spends little on each.\n\n\
         Anyone who has seen a knock can repeat its first bytes for two minutes. Only a MAC shows that such a packet is forged; computing it \
         takes about 0.25 µs here, which is the least that a packet with a recorded hint costs.\n",
    );
    if let Some(bare) = &results.bare {
        writeln!(
            text,
            "\nFor reference: against a rule of nftables that drops everything at ingress, the sender sends {} frames of {} bytes per second.",
            thousands(bare.sent as f64 / bare.seconds),
            bare.bytes
        )
        .unwrap();
    }
    if results.floods.len() > 1 {
        text.push_str("\n![Honest knocks that open during a flood](floods.svg)\n\n![CPU time of the daemons during a flood](cpu.svg)\n");
    }
    text.push_str("\n| | forged packets | per second: asked | sent | honest knocks that open | median | CPU for each | of one core |\n|---|---|---|---|---|---|---|---|\n");
    for flood in &results.floods {
        let FloodResult { title, forgery, asked, rate, knocks, opened, open_ms, cpu_us, cpu_share, .. } =
            flood;
        let median =
            spread(open_ms).map_or_else(|| "–".to_owned(), |[_, median, _]| format!("{median:.0} ms"));
        writeln!(
            text,
            "| {title} | {} | {} | {} | {opened} of {knocks} | {median} | {cpu_us:.2} µs | {:.0} % |",
            kind(forgery),
            thousands(*asked as f64),
            thousands(*rate),
            cpu_share * 100.0
        )
        .unwrap();
    }
}

/// What the packets of a flood are, in a few words.
fn kind(forgery: &str) -> &str {
    match forgery {
        "random-hint" => "random bytes",
        "recorded-hint" => "a recorded knock with another tag",
        "wrong-mac" => "a recorded packet with another MAC",
        "any-order" => "SYNs to the sequence's ports, in any order",
        "syn" => "SYNs to the control port",
        other => other,
    }
}

fn memory(text: &mut String, results: &Results) {
    if results.memory.is_empty() {
        return;
    }
    text.push_str("\n## Memory\n\nThe proportional set size (PSS) of each process, one client.\n\n| | forged packets before | processes | sum |\n|---|---|---|---|\n");
    for row in &results.memory {
        let processes: Vec<String> = row
            .processes
            .iter()
            .map(|process| format!("{} {}", process.name, mib(process.pss_kib)))
            .collect();
        let sum = row.processes.iter().map(|process| process.pss_kib).sum();
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            row.title,
            thousands(row.forged as f64),
            processes.join(", "),
            mib(sum)
        )
        .unwrap();
    }
}

fn clients(text: &mut String, rows: &[Clients]) {
    text.push_str(
        "\n## Many clients\n\nKeys of spa-knock, stanzas of fwknop, users of letmein, doors of knockd. The honest client is the last one in the \
         configuration. The CPU time is that of a moderate flood.\n\n",
    );
    if rows.iter().any(|row| row.clients > 10) {
        text.push_str("![CPU time for each forged packet, with many clients](clients.svg)\n\n");
    }
    text.push_str("| | clients | start | first frame to open, median | forged per second | CPU for each | of one core |\n|---|---|---|---|---|---|---|\n");
    for row in rows {
        let Some(start) = row.start_ms else {
            writeln!(text, "| {} | {} | not within 20 s | – | – | – | – |", row.title, row.clients).unwrap();
            continue;
        };
        let median = spread(&row.wire)
            .map_or_else(|| "–".to_owned(), |[_, median, _]| format!("{:.2} ms", median / 1e3));
        let failed = if row.failed == 0 { String::new() } else { format!("; {} opened nothing", row.failed) };
        writeln!(
            text,
            "| {} | {} | {start:.0} ms | {median}{failed} | {} | {:.2} µs | {:.0} % |",
            row.title,
            row.clients,
            thousands(row.rate),
            row.cpu_us,
            row.cpu_share * 100.0
        )
        .unwrap();
    }
}

fn replays(text: &mut String, rows: &[Replay]) {
    text.push_str(
        "\n## Replays\n\nAll packets of a real client are recorded and sent again after the port has closed. \"Kept on the path\" means: the recorded \
         knock has never reached the server; someone on the path has kept it, and sends it unchanged, which shows that the recording is complete, or from their own address. The table lists for which \
         address the port opens. What does not depend on the mode is measured in one mode of each tool, here and below.\n\n|",
    );
    let cases = titles(rows.iter().map(|row| &row.case));
    for case in &cases {
        let column = match case.as_str() {
            "right-away" => "right away",
            "after-a-restart" => "after a restart",
            "after-a-kill" => "after `kill -9` and a start",
            "other-address" => "from another address",
            "delayed" => "kept on the path, sent unchanged",
            "intercepted" => "kept on the path, from another address",
            other => other,
        };
        write!(text, " | {column}").unwrap();
    }
    writeln!(text, " |\n|---|{}", "---|".repeat(cases.len())).unwrap();
    for title in titles(rows.iter().map(|row| &row.title)) {
        let outcomes: Vec<&str> = rows.iter().filter(|row| row.title == *title).map(outcome).collect();
        writeln!(text, "| {title} | {} |", outcomes.join(" | ")).unwrap();
    }
}

fn outcome(row: &Replay) -> &'static str {
    if row.case == "delayed" && row.opens_recorded {
        return "the recorded client's";
    }
    let is_other = matches!(row.case.as_str(), "other-address" | "intercepted");
    match (row.opens_recorded, row.opens_sender) {
        (false, false) => "nothing",
        (_, true) if is_other => "**the attacker's**",
        (true, _) if is_other => "the recorded client's",
        _ => "**the same address again**",
    }
}

fn kills(text: &mut String, rows: &[Kill]) {
    let Some(first) = rows.first() else { return };
    writeln!(
        text,
        "\n## After `kill -9`\n\nA knock opens a port for {} s. Then the daemons are killed, or all processes of the tool, as systemd does. Does \
         the port close? It is watched for {} s. If it is still open then, the daemon is started again.\n\n| | killed | the port |\n|---|---|---|",
        first.granted_s, first.watched_s
    )
    .unwrap();
    for row in rows {
        let port = match (row.closed_s, row.closed_by_start) {
            (Some(seconds), _) => format!("closes after {seconds:.1} s"),
            (None, Some(true)) => "**stays open** until the daemon is started again".to_owned(),
            (None, _) => "**stays open**, also after the daemon is started again".to_owned(),
        };
        let killed = if row.killed == "daemons" { "the daemons" } else { "all processes" };
        writeln!(text, "| {} | {killed} | {port} |", row.title).unwrap();
    }
}

fn configurations(text: &mut String, peers: &[&'static dyn Peer]) {
    text.push_str(
        "\n## The configurations\n\nEach tool has what its documentation recommends for one client that opens `tcp/22`. Only limits are raised: all \
         knocks of a run are of one key. Log lines of the peers go to `/dev/null`. Where several packages have a mode each, the first configuration is \
         shown.\n",
    );
    let mut shown = Vec::new();
    for peer in peers {
        if shown.contains(&peer.tool()) {
            continue;
        }
        shown.push(peer.tool());
        writeln!(text, "\n### {}\n\nForged packets:\n", peer.tool()).unwrap();
        for other in peers.iter().filter(|other| other.tool() == peer.tool()) {
            let kinds: Vec<&str> = other.forgeries().iter().map(|(_, what)| *what).collect();
            writeln!(text, "- {}: {}", other.title(), kinds.join("; ")).unwrap();
        }
        for (name, config) in peer.shown() {
            writeln!(
                text,
                "\n{name}:\n\n<!-- not run: scripts/compare writes it -->\n```\n{}\n```",
                config.trim_end()
            )
            .unwrap();
        }
    }
}
