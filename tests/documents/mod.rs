//! The commands and files that README and the book print, as the tests run and check them.
//!
//! An HTML comment on the line above each fenced block states what the block is. A comment alone on its lines can also do
//! what a page leaves out:
//!
//! | comment | meaning |
//! |---|---|
//! | `run: server`, `run: client` | the block is run as root on the server, or on the client; with `, fails` it must fail; with `, until stopped` it must still run after a second, and exit on SIGINT |
//! | `setup: server`, `setup: client` | the lines inside the comment are run; the page does not show them |
//! | `output` | the last block that was run printed this; `[..]` is any text, `...` any lines |
//! | `config: server`, `config: client` | a fragment of the config; it is merged into the file and must be accepted |
//! | `file: server PATH`, `file: client PATH` | the block is written to the file |
//! | `transfer: server:PATH client:PATH` | the file is copied, with mode 0600 |
//! | `transfer-output: client` | the next block's standard input is the last token that the server has printed |
//! | `not run: REASON` | why no test runs the block, or which other test does |
#![allow(dead_code, reason = "each test uses a part")]

#[path = "../source/mod.rs"]
pub(crate) mod source;

use source::{all_files, name_of, project};

/// README, SECURITY and every page of the book, relative to the top of the project.
pub(crate) fn pages() -> Vec<String> {
    let docs = all_files(&project("docs")).into_iter().map(|path| name_of(&path));
    let docs = docs.filter(|name| name.ends_with(".md"));
    let mut pages: Vec<String> = docs.chain(["README.md", "SECURITY.md"].map(str::to_owned)).collect();
    pages.sort();
    pages
}

/// One of the two machines that pages speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Machine {
    Server,
    Client,
}

impl Machine {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "server" => Ok(Self::Server),
            "client" => Ok(Self::Client),
            _ => Err(format!("{text}: neither server nor client")),
        }
    }
}

/// How a block ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Success,
    Failure,
    /// It runs until it is interrupted.
    Stopped,
}

/// What a page asks for, in the order of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Run { machine: Machine, end: End, script: String },
    Output(String),
    Config { machine: Machine, toml: String },
    File { machine: Machine, path: String, text: String },
    Transfer { from: (Machine, String), to: (Machine, String) },
    TransferOutput,
    NotRun,
}

/// The steps of a page, each with the number of its line. An error is a line and what is wrong there.
pub(crate) fn steps(text: &str) -> Result<Vec<(usize, Step)>, (usize, String)> {
    let mut lines = (1..).zip(text.lines());
    let (mut steps, mut above) = (Vec::new(), None);
    while let Some((number, line)) = lines.next() {
        let indent = line.len().saturating_sub(line.trim_start().len());
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("<!-- ") {
            let comment = match rest.strip_suffix("-->") {
                Some(comment) => comment.to_owned(),
                None => {
                    let inside: Vec<&str> = lines
                        .by_ref()
                        .map(|(_, line)| line)
                        .take_while(|line| line.trim() != "-->")
                        .collect();
                    format!("{rest}\n{}\n", inside.join("\n"))
                }
            };
            match alone(&comment).map_err(|problem| (number, problem))? {
                Some(step) => steps.push((number, step)),
                None => above = Some(comment.trim().to_owned()),
            }
        } else if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines
                .by_ref()
                .map(|(_, line)| line)
                .take_while(|line| line.trim() != "```")
                .map(|line| line.get(indent..).unwrap_or_default())
                .collect();
            let step = fenced(above.take(), language, &block).map_err(|problem| (number, problem))?;
            steps.push((number, step));
        } else {
            above = None;
        }
    }
    Ok(steps)
}

/// The step of a comment that needs no block.
fn alone(comment: &str) -> Result<Option<Step>, String> {
    let comment = comment.trim_end();
    if let Some(rest) = comment.strip_prefix("setup: ") {
        let (machine, script) = rest.split_once('\n').ok_or("setup: has no lines")?;
        let script = format!("{script}\n");
        return Ok(Some(Step::Run { machine: Machine::parse(machine.trim())?, end: End::Success, script }));
    }
    if comment == "transfer-output: client" {
        return Ok(Some(Step::TransferOutput));
    }
    let Some(rest) = comment.strip_prefix("transfer: ") else { return Ok(None) };
    let place = |text: &str| -> Result<(Machine, String), String> {
        let (machine, path) = text.split_once(':').ok_or(format!("{text}: not MACHINE:PATH"))?;
        Ok((Machine::parse(machine)?, path.to_owned()))
    };
    let (from, to) = rest.split_once(' ').ok_or("transfer: needs two places")?;
    Ok(Some(Step::Transfer { from: place(from)?, to: place(to)? }))
}

/// The step of a fenced block below this comment.
fn fenced(comment: Option<String>, language: &str, block: &[&str]) -> Result<Step, String> {
    let text = format!("{}\n", block.join("\n"));
    let comment = comment
        .ok_or(format!("a block ({language}) without a comment on the line above that states what it is"))?;
    let (kind, rest) = comment.split_once(": ").unwrap_or((&comment, ""));
    Ok(match kind {
        "run" => {
            let (machine, end) = match rest.split_once(", ") {
                None => (rest, End::Success),
                Some((machine, "fails")) => (machine, End::Failure),
                Some((machine, "until stopped")) => (machine, End::Stopped),
                Some((_, other)) => return Err(format!("{other}: neither `fails` nor `until stopped`")),
            };
            Step::Run { machine: Machine::parse(machine)?, end, script: text }
        }
        "output" => Step::Output(text),
        "config" => Step::Config { machine: Machine::parse(rest)?, toml: text },
        "file" => {
            let (machine, path) = rest.split_once(' ').ok_or("file: needs a machine and a path")?;
            Step::File { machine: Machine::parse(machine)?, path: path.to_owned(), text }
        }
        "not run" if rest.len() > 10 => Step::NotRun,
        _ => return Err(format!("{comment}: not understood")),
    })
}

/// Whether a text is what a page prints: `[..]` is any text within a line, a line `...` any lines, blanks at ends do not count.
pub(crate) fn matches(printed: &str, page: &str) -> bool {
    let [printed, page] =
        [printed, page].map(|text| text.trim().lines().map(str::trim_end).collect::<Vec<_>>());
    lines_match(&printed, &page)
}

fn lines_match(printed: &[&str], page: &[&str]) -> bool {
    match page.split_first() {
        None => printed.is_empty(),
        Some((&"...", rest)) => {
            (0..=printed.len()).any(|from| lines_match(printed.get(from..).unwrap_or_default(), rest))
        }
        Some((pattern, rest)) => printed
            .split_first()
            .is_some_and(|(line, others)| line_matches(line, pattern) && lines_match(others, rest)),
    }
}

fn line_matches(line: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once("[..]") else { return line == pattern };
    let Some(rest) = line.strip_prefix(before) else { return false };
    (0..=rest.len())
        .filter(|from| rest.is_char_boundary(*from))
        .any(|from| rest.get(from..).is_some_and(|rest| line_matches(rest, after)))
}
