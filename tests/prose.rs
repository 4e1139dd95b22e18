//! Wording: what people read is plain modern American English. Each pattern here was found to slow readers down.
//!
//! Read are README, SECURITY and CHANGELOG, the documents, the command line's contract, and of the Rust files comments,
//! literals and names of tests. What is left in each file is listed in `tests/prose/allowed.txt`. An entry may only become
//! smaller: the test fails when a file has more than its entry, and also when it has less, so that the entry is lowered.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests read files and may fail loudly"
)]

mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use regex::Regex;
use source::{all_files, comments_and_strings, name_of, project, rust_files};

/// Patterns, between word boundaries and without regard to case, and what to write instead.
const PATTERNS: [(&str, &str); 28] = [
    (r"stands?|stood", "is in, is listed in, exists, remains"),
    (r"told|tells?", "reports, prints, logs, lists, states"),
    (r"mend(s|ed|ing)?", "fix, repair, restore"),
    (r"anew|afresh", "again, from scratch"),
    (r"of late", "recently"),
    (r"meanwhile", "in the meantime"),
    (r"in its turn", "next"),
    (r"all the same", "anyway"),
    (r"but for|save for", "except"),
    (r"whom|whoever", "rewrite; anyone who"),
    (r"nobody's", "no one's; unusable"),
    (r"strangers?|stranger's", "unknown client, unauthenticated sender"),
    (r"he|him|his", "they, them, their; or name the role"),
    (r"may do|may not be had", "is allowed to; is unavailable"),
    (r"good at", "valid for"),
    (r"take(s|n)? up|take away|gone on with", "apply, load; remove; continue"),
    (r"gives? up (its|all) rights", "drop privileges"),
    (r"walls?|ears|deeds?|gatehouse|ladder|lane", "see the glossary"),
    (r"touch(es|ed)?", "port hit"),
    (r"plain sequences?", "knock sequence"),
    (r"undoings?", "undo task"),
    (r"talks nonsense", "sends an invalid message"),
    (r"made-up", "spoofed"),
    (r"for people", "human-readable"),
    (r"what (it|he) (is|was) told", "its argument"),
    (r"colour|behaviour|licence|recognis\w*|organis\w*|synchronis\w*", "American spelling"),
    (r"it is tried|is tried once more", "the daemon retries"),
    (r"a while ago|for a while yet", "state the time"),
];

#[test]
fn no_file_has_more_of_the_patterns_than_its_allowance() {
    let patterns = compiled();
    let mut found = BTreeMap::new();
    for path in files() {
        let text = std::fs::read_to_string(&path).unwrap();
        let count = hits(&patterns, &prose(&name_of(&path), &text)).len();
        if count > 0 {
            found.insert(name_of(&path), count);
        }
    }
    let allowed = std::fs::read_to_string(project("tests/prose/allowed.txt")).unwrap();
    let faults = compare(&found, &allowed);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_planted_fault_is_found() {
    let patterns = compiled();
    let found = |name: &str, text: &str| -> Vec<String> {
        hits(&patterns, &prose(name, text)).into_iter().map(|(line, word)| format!("{line} {word}")).collect()
    };
    assert_eq!(found("README.md", "Fine.\nAll but for him."), ["2 but for", "2 him"]);
    let rust = "/// Told to whom?\nlet told = \"a stranger\"; // mended\n#[test]\nfn it_is_mended() {}\n";
    assert_eq!(found("src/x.rs", rust), ["1 Told", "1 whom", "2 stranger", "2 mended", "4 mended"]);
    assert_eq!(found("src/x.rs", "let told = he;"), [""; 0]);
    let counts = BTreeMap::from([("a.md".to_owned(), 2), ("b.md".to_owned(), 1)]);
    assert_eq!(
        compare(&counts, "a.md 1\nb.md 3\n"),
        [
            "a.md 2: not allowed: see tests/prose.rs for what to write instead",
            "b.md 3: there are fewer: lower the entry",
        ]
    );
}

fn compiled() -> Regex {
    let all: Vec<&str> = PATTERNS.iter().map(|(pattern, _)| *pattern).collect();
    Regex::new(&format!(r"(?i)(?-u:\b)({})(?-u:\b)", all.join("|"))).unwrap()
}

/// All that people read.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        ["README.md", "SECURITY.md", "CHANGELOG.md", "src/manual.rs"].map(project).to_vec();
    files.extend(all_files(&project("docs")));
    files.extend(all_files(&project("tests/cmd")));
    for folder in ["src", "core", "tests", "benches"].map(project) {
        if folder.is_dir() {
            files.extend(rust_files(&folder));
        }
    }
    let is_read = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("md" | "rs" | "trycmd")) && name_of(path) != "tests/prose.rs"
    };
    files.retain(is_read);
    files.sort();
    files.dedup();
    files
}

/// What of a file is prose: all of a document; of a Rust file comments, literals and the names of tests.
fn prose(name: &str, text: &str) -> String {
    if !name.ends_with(".rs") {
        return text.to_owned();
    }
    let mut lines: Vec<String> = comments_and_strings(text).lines().map(str::to_owned).collect();
    let mut is_test = false;
    for (line, words) in text.lines().zip(&mut lines) {
        let line = line.trim_start();
        if let (true, Some(name)) = (is_test, line.strip_prefix("fn ")) {
            words.push_str(&name.split('(').next().unwrap_or_default().replace('_', " "));
        }
        is_test = line == "#[test]" || (is_test && line.starts_with("#["));
    }
    lines.join("\n")
}

/// The patterns that a text has, each with its line.
fn hits(patterns: &Regex, text: &str) -> Vec<(usize, String)> {
    let lines = (1..).zip(text.lines());
    let in_line =
        |(number, line)| patterns.find_iter(line).map(move |found| (number, found.as_str().to_owned()));
    lines.flat_map(in_line).collect()
}

/// What is not as the allowance states it.
fn compare(found: &BTreeMap<String, usize>, allowed: &str) -> Vec<String> {
    let entries: BTreeMap<&str, usize> = allowed
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(file, count)| (file, count.parse().unwrap()))
        .collect();
    let allowance = |file: &str| entries.get(file).copied().unwrap_or_default();
    let more = found.iter().filter(|(file, count)| **count > allowance(file)).map(|(file, count)| {
        format!("{file} {count}: not allowed: see tests/prose.rs for what to write instead")
    });
    let fewer = entries
        .iter()
        .filter(|(file, count)| found.get(**file).copied().unwrap_or_default() < **count)
        .map(|(file, count)| format!("{file} {count}: there are fewer: lower the entry"));
    more.chain(fewer).collect()
}
