//! `docs/internals/architecture.md` names files, functions, types, programs and features that exist.
//!
//! The tests check text between backticks:
//!
//! - A **path** contains a slash or ends in `.rs`. It is relative to the top of the project, to `src/` or to
//!   `core/src/`, and must exist in exactly one of them. Paths that begin with `/`, `../` or `state_dir/` belong to an
//!   installed system and are not checked.
//! - A **function**, type or constant that follows a file, with at most a comma between them, must be defined in that
//!   file. So must each further one in such a list. Of `Type::function`, both parts must be defined.
//! - A **type** or message in camel case must be an identifier in the source.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests read files and panic on failure"
)]

mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;

use source::{before_tests, is_word, project, rust_files, without_comments_and_strings};

const DOCUMENT: &str = "docs/internals/architecture.md";
/// Words in camel case that are not identifiers in the source: an option of ssh.
const FOREIGN: [&str; 1] = ["ProxyCommand"];

#[test]
fn every_path_exists_and_every_function_is_defined_in_the_file_before_it() {
    let faults = faults(&document());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_type_and_message_is_in_the_source() {
    let mut known = BTreeSet::new();
    for path in ["src", "core/src"].iter().flat_map(|folder| rust_files(&project(folder))) {
        let code = without_comments_and_strings(&std::fs::read_to_string(path).unwrap());
        known.extend(code.split(|c| !is_word(c)).map(str::to_owned));
    }
    let text = document();
    let unknown: Vec<&str> = spans(&text)
        .into_iter()
        .map(|(_, span)| span)
        .filter(|span| is_camel_case(span) && !known.contains(*span) && !FOREIGN.contains(span))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_folder_program_and_feature_is_in_the_document() {
    let text = document();
    let named: BTreeSet<&str> = spans(&text).into_iter().map(|(_, span)| span).collect();
    let mut wanted = Vec::new();
    for folder in ["src", "core/src"].map(project) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            wanted.push(if entry.path().is_dir() { format!("{name}/") } else { name });
        }
    }
    // The document lists the parts of `auth/` and `fleet/` instead of these folders, of which the latter is also the name of a
    // crate, and `console.rs` instead of `console/`.
    wanted.retain(|name| !["lib.rs", "auth/", "fleet/", "console/"].contains(&name.as_str()));
    for manifest in [include_str!("../Cargo.toml"), include_str!("../core/Cargo.toml")] {
        wanted.extend(programs(manifest));
        wanted.extend(features(manifest));
    }
    assert!(wanted.len() > 25, "the source is missing");
    wanted.retain(|name| !named.contains(name.as_str()));
    assert!(wanted.is_empty(), "{wanted:?}");
}

#[test]
fn a_planted_fault_is_found() {
    let cases = [
        ("`daemon/knocks.rs` `judge`, `record`", None),
        ("(`daemon/knocks.rs`, `Daemon::judge`)", Some("1: `Daemon` is not defined in daemon/knocks.rs")),
        ("`gate/grants.rs` `grant`, then\n`judge`", None),
        ("`core/src/auth/keeper/fresh.rs` `Decrypted::open`", None),
        ("in `state_dir/gate`, `/run/x`, `../libexec/x` and `A / B`", None),
        ("x\n`daemon/knock.rs`", Some("2: daemon/knock.rs: no such file or folder")),
        ("`knocks.rs`", Some("1: knocks.rs: no such file or folder")),
        ("`daemon/knocks.rs` `judges`", Some("1: `judges` is not defined in daemon/knocks.rs")),
        ("`daemon/knocks.rs`, `judge` or `judges`", None),
        ("`daemon/knocks.rs` `judge`, `judges`", Some("1: `judges` is not defined in daemon/knocks.rs")),
    ];
    for (text, fault) in cases {
        assert_eq!(faults(text), fault.into_iter().collect::<Vec<_>>(), "{text}");
    }
    assert_eq!(spans("`a` b\n```\n`c`\n```\n`d`").len(), 2);
    assert!(is_camel_case("Seen") && is_camel_case("ToShell"));
    assert!(!is_camel_case("INPUT") && !is_camel_case("state_dir") && !is_camel_case("Start_Command"));
}

fn document() -> String {
    std::fs::read_to_string(project(DOCUMENT)).unwrap()
}

/// All paths that do not exist, and all names that are not defined in the file before them.
fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut file: Option<(&str, String)> = None;
    let mut end = 0;
    for (at, span) in spans(text) {
        let line = text[..at].matches('\n').count().saturating_add(1);
        let between = text[end..at].trim_matches('`').replace(['\n', ' '], "");
        end = at.saturating_add(span.len());
        if is_path(span) {
            let places = places(span);
            file = match places.as_slice() {
                [place] if place.is_file() => Some((span, std::fs::read_to_string(place).unwrap())),
                [_] => None,
                [] => {
                    faults.push(format!("{line}: {span}: no such file or folder"));
                    None
                }
                _ => {
                    faults.push(format!("{line}: {span}: more than one"));
                    None
                }
            };
            continue;
        }
        if !matches!(between.as_str(), "" | ",") || !span.split("::").all(is_identifier) {
            file = None;
        }
        let Some((path, content)) = &file else { continue };
        for name in span.split("::").filter(|name| !defines(content, name)) {
            faults.push(format!("{line}: `{name}` is not defined in {path}"));
        }
    }
    faults
}

/// The texts between single backticks outside code blocks, each with its offset.
fn spans(text: &str) -> Vec<(usize, &str)> {
    let mut spans = Vec::new();
    let mut start = None;
    let (mut place, mut in_block) = (0_usize, false);
    for line in text.split_inclusive('\n') {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            for (offset, _) in line.match_indices('`') {
                let at = place.saturating_add(offset);
                match start.take() {
                    None => start = Some(at.saturating_add(1)),
                    Some(from) => spans.push((from, &text[from..at])),
                }
            }
        }
        place = place.saturating_add(line.len());
    }
    spans
}

fn is_path(span: &str) -> bool {
    let is_installed = ["/", "../", "state_dir/"].iter().any(|start| span.starts_with(start));
    !is_installed && !span.contains(' ') && (span.contains('/') || span.ends_with(".rs"))
}

/// The files and folders that a path can mean.
fn places(span: &str) -> Vec<PathBuf> {
    let mut places = ["", "src", "core/src"].map(|root| project(root).join(span)).to_vec();
    places.retain(|place| place.exists() && (!span.ends_with('/') || place.is_dir()));
    places
}

fn defines(content: &str, name: &str) -> bool {
    let code = without_comments_and_strings(before_tests(content));
    let keywords = ["fn", "struct", "enum", "trait", "type", "const", "static"];
    keywords.iter().any(|keyword| {
        let definition = format!("{keyword} {name}");
        code.match_indices(&definition)
            .any(|(at, _)| !code[at.saturating_add(definition.len())..].starts_with(is_word))
    })
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word)
}

fn is_camel_case(span: &str) -> bool {
    let first_is_capital = span.starts_with(|c: char| c.is_ascii_uppercase());
    let has_small = span.contains(|c: char| c.is_ascii_lowercase());
    first_is_capital && has_small && span.chars().all(|c| c.is_ascii_alphanumeric())
}

/// The names of the programs in a manifest.
fn programs(manifest: &str) -> Vec<String> {
    let sections = manifest.split("[[bin]]\n").skip(1);
    sections.filter_map(|section| Some(section.split('"').nth(1)?.to_owned())).collect()
}

/// The names of the features in a manifest, except `default`.
fn features(manifest: &str) -> Vec<String> {
    let section = manifest.split("[features]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let names =
        lines.filter(|line| !line.starts_with('#')).filter_map(|line| Some(line.split_once(" = ")?.0));
    names.filter(|name| *name != "default").map(str::to_owned).collect()
}
