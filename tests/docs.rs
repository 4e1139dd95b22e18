//! README, SECURITY.md and the book: lengths, links, what each printed block is, and the tests that guarantees name.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests read files and panic on failure"
)]

mod documents;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use documents::source::{project, rust_files};
use documents::{matches, pages, steps};
use regex::Regex;

/// Files and their most lines. README has short lines, too: it is read in terminals.
const LIMITS: [(&str, usize); 2] = [("README.md", 200), ("SECURITY.md", 130)];
const COLUMNS: usize = 100;
/// Guarantees and the tests that hold them.
const INDEX: &str = "docs/internals/security-tests.md";

fn text(page: &str) -> String {
    std::fs::read_to_string(project(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

#[test]
fn readme_and_security_are_short() {
    for (page, most) in LIMITS {
        let lines = text(page).lines().count();
        assert!(lines <= most, "{page}: {lines} lines; at most {most}, the rest belongs in the book");
    }
    // Tables and comments cannot be wrapped.
    let is_prose = |line: &&str| !line.starts_with(['|', '<', '!']);
    let long: Vec<String> = text("README.md")
        .lines()
        .filter(is_prose)
        .filter(|line| line.chars().count() > COLUMNS)
        .map(str::to_owned)
        .collect();
    assert!(long.is_empty(), "README.md has lines over {COLUMNS} columns: {long:#?}");
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = links(&text("docs/SUMMARY.md"));
    let listed: BTreeSet<String> =
        summary.iter().map(|(_, target)| format!("docs/{}", target.trim_start_matches("./"))).collect();
    let written: BTreeSet<String> =
        pages().into_iter().filter(|page| page.starts_with("docs/") && page != "docs/SUMMARY.md").collect();
    assert_eq!(listed, written);
}

#[test]
fn every_link_leads_to_a_file_and_every_anchor_to_a_heading() {
    let mut anchors = BTreeMap::new();
    let mut broken = Vec::new();
    for page in pages().into_iter().chain(["CHANGELOG.md".to_owned()]) {
        for (line, target) in links(&text(&page)) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            if path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            let place = if path.is_empty() { page.clone() } else { beside(&page, path) };
            if !project(&place).exists() {
                broken.push(format!("{page}:{line}: {target}: there is no {place}"));
            } else if !anchor.is_empty() {
                let known = anchors.entry(place.clone()).or_insert_with(|| headings(&text(&place)));
                if !known.contains(anchor) {
                    broken.push(format!("{page}:{line}: {target}: {place} has no such heading"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{} broken links:\n{}\n", broken.len(), broken.join("\n"));
}

#[test]
fn every_printed_block_states_what_it_is() {
    let problem =
        |page: String| steps(&text(&page)).err().map(|(line, problem)| format!("{page}:{line}: {problem}"));
    let problems: Vec<String> = pages().into_iter().filter_map(problem).collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn every_test_that_a_guarantee_names_exists_in_its_file() {
    let text = text(INDEX);
    let spans = Regex::new("`([^`]+)`").unwrap();
    let (mut file, mut missing, mut found) = (None, Vec::new(), 0);
    for span in spans.captures_iter(&text).map(|captures| captures[1].to_owned()) {
        let is_path = span.contains('/');
        if is_path {
            if project(&span).exists() {
                file = Some(span);
            } else {
                missing.push(format!("{span}: there is no such file"));
            }
        } else if span.contains('_')
            && span.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            let Some(file) = &file else {
                missing.push(format!("{span}: no file is named before it"));
                continue;
            };
            let needle = format!("fn {span}(");
            let place = project(file);
            let files = if place.is_dir() { rust_files(&place) } else { vec![place] };
            if files.iter().any(|file| std::fs::read_to_string(file).unwrap().contains(&needle)) {
                found += 1;
            } else {
                missing.push(format!("{file}: no test {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
    assert!(found > 50, "only {found} tests are named");
    // SECURITY.md numbers its guarantees; the index has a heading for each.
    let numbers = Regex::new(r"(?m)^\| (\d+) \|").unwrap();
    let security = std::fs::read_to_string(project("SECURITY.md")).unwrap();
    let guarantees: Vec<String> =
        numbers.captures_iter(&security).map(|captures| captures[1].to_owned()).collect();
    assert!(guarantees.len() >= 14, "SECURITY.md lists its guarantees");
    for number in guarantees {
        assert!(text.contains(&format!("\n## {number}. ")), "{INDEX}: no heading for guarantee {number}");
    }
}

#[test]
fn printed_output_is_compared_with_wildcards() {
    let cases = [
        ("a 1 b\n", "a [..] b\n", true),
        ("a 1 c\n", "a [..] b\n", false),
        ("first\nx\ny\nlast\n", "first\n...\nlast\n", true),
        ("first\nlast\n", "first\n...\nlast\n", true),
        ("first\nlast\nmore\n", "first\n...\nlast\n", false),
        ("x = 1, y = 2\n", "x = [..], y = [..]\n", true),
        ("", "...\n", true),
        ("a\n", "", false),
    ];
    for (printed, page, expected) in cases {
        assert_eq!(matches(printed, page), expected, "{printed:?} {page:?}");
    }
}

/// The targets of links and images, with their lines. Code is left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let link = Regex::new(r"\]\(([^()\s]+)\)").unwrap();
    let code = Regex::new("`[^`]*`").unwrap();
    let mut is_block = false;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        } else if !is_block {
            let line = code.replace_all(line, "``");
            found.extend(link.captures_iter(&line).map(|captures| (number, captures[1].to_owned())));
        }
    }
    found
}

/// A path relative to a page, from the top of the project.
fn beside(page: &str, path: &str) -> String {
    let mut place = PathBuf::from(page).parent().unwrap().to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::ParentDir => {
                place.pop();
            }
            Component::Normal(name) => place.push(name),
            _ => {}
        }
    }
    place.to_str().unwrap().to_owned()
}

/// The anchors that headings make: lower case, blanks as hyphens, punctuation left out; repeated ones are numbered.
fn headings(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut is_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        }
        let Some(heading) = line.strip_prefix('#').filter(|_| !is_block) else { continue };
        let heading = heading.trim_start_matches('#').trim();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String =
            kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect();
        let mut numbered = anchor.clone();
        let mut number = 1;
        while !anchors.insert(numbered.clone()) {
            numbered = format!("{anchor}-{number}");
            number += 1;
        }
    }
    anchors
}
