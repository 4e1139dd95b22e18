//! Type names in the workspace: no name is defined twice, and none is a bare participle that means nothing outside its
//! module.
//!
//! Exceptions are listed in `tests/naming/allowed.txt` with their count. A count may only become smaller: the test
//! fails if there are more than the count, and also if there are fewer, so that the count is lowered.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests read files and panic on failure"
)]

mod source;

use std::collections::BTreeMap;
use std::path::PathBuf;

use source::{
    before_tests, is_word, name_of, project, rust_files, without_comments_and_strings, without_test_files,
};

/// Words that are not nouns. Proof types and startup states are exceptions: they are named after the check that they
/// have passed. `tests/prose.rs` rejects more words in all identifiers.
const PARTICIPLES: [&str; 54] = [
    "Again",
    "Asked",
    "Asking",
    "Begun",
    "Broken",
    "Called",
    "Calling",
    "Carried",
    "Changed",
    "Coming",
    "Counted",
    "Created",
    "Decided",
    "Ended",
    "Gated",
    "Gone",
    "Guarded",
    "Heard",
    "Held",
    "Incoming",
    "Kept",
    "Keyed",
    "Knocked",
    "Known",
    "Learnt",
    "Led",
    "Left",
    "Listed",
    "Logged",
    "Met",
    "Migrated",
    "Named",
    "Opened",
    "Opening",
    "Over",
    "Passed",
    "Planned",
    "Postponed",
    "Present",
    "Profiled",
    "Received",
    "Revoked",
    "Running",
    "Saved",
    "Seen",
    "Sent",
    "Then",
    "Timed",
    "Truncated",
    "Unanswered",
    "Underway",
    "Used",
    "Waiting",
    "Written",
];

#[test]
fn no_type_name_is_defined_twice_and_none_is_a_bare_participle() {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let folders = ["src", "core/src", "fleet/src", "fwknop/src"].map(project);
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        // `absent.rs` replaces a module whose feature is disabled, and defines the same names.
        let is_replacement = |path: &PathBuf| name_of(path).ends_with("absent.rs");
        for path in without_test_files(rust_files(folder)).into_iter().filter(|path| !is_replacement(path)) {
            for name in types(&std::fs::read_to_string(&path).unwrap()) {
                defined.entry(name).or_default().push(name_of(&path));
            }
        }
    }
    assert!(defined.len() > 100, "the source is missing");
    let found = findings(&defined);
    let allowed = std::fs::read_to_string(project("tests/naming/allowed.txt")).unwrap();
    let faults = compare(&found, &allowed);
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_planted_fault_is_found() {
    let text = "pub(in crate::auth) struct Verdict;\nenum Held {\n}\n    type Item = u8;\n// struct Comment;\n\
                let text = \"struct Text\";\n#[cfg(test)]\nmod tests {\n    struct Verdict;\n}";
    assert_eq!(types(text), ["Verdict", "Held"]);
    let defined = BTreeMap::from([
        ("Verdict".to_owned(), vec!["src/a.rs".to_owned(), "src/b.rs".to_owned()]),
        ("Held".to_owned(), vec!["src/a.rs".to_owned()]),
        ("Knock".to_owned(), vec!["src/a.rs".to_owned()]),
    ]);
    let found = findings(&defined);
    assert_eq!(
        compare(&found, ""),
        ["participle Held 1: not allowed (src/a.rs)", "twice Verdict 2: not allowed (src/a.rs, src/b.rs)",]
    );
    assert_eq!(compare(&found, "participle Held 1\ntwice Verdict 2\n"), [""; 0]);
    assert_eq!(
        compare(&found, "participle Held 1\ntwice Verdict 3\ntwice Gate 2\n"),
        [
            "twice Verdict 3: there are fewer: lower the entry",
            "twice Gate 2: there are fewer: lower the entry",
        ]
    );
}

/// The number of findings by kind and name, as in an entry of the list of exceptions, and the files that they are in.
fn findings(defined: &BTreeMap<String, Vec<String>>) -> BTreeMap<String, (usize, String)> {
    let mut found = BTreeMap::new();
    for (name, files) in defined {
        if files.len() > 1 {
            found.insert(format!("twice {name}"), (files.len(), files.join(", ")));
        }
        if PARTICIPLES.contains(&name.as_str()) {
            found.insert(format!("participle {name}"), (files.len(), files.join(", ")));
        }
    }
    found
}

/// The differences between the findings and the list of exceptions.
fn compare(found: &BTreeMap<String, (usize, String)>, allowed: &str) -> Vec<String> {
    let entries: Vec<(&str, usize)> = allowed
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(what, count)| (what, count.parse().unwrap()))
        .collect();
    let allowance = |what: &str| entries.iter().find(|(entry, _)| *entry == what).map_or(0, |(_, n)| *n);
    let more = found
        .iter()
        .filter(|(what, (count, _))| *count > allowance(what))
        .map(|(what, (count, files))| format!("{what} {count}: not allowed ({files})"));
    let fewer = entries
        .iter()
        .filter(|(what, count)| found.get(*what).map_or(0, |(count, _)| *count) < *count)
        .map(|(what, count)| format!("{what} {count}: there are fewer: lower the entry"));
    more.chain(fewer).collect()
}

/// The names of the types that a file defines outside its tests. An indented `type` belongs to a trait and is left out.
fn types(text: &str) -> Vec<String> {
    let code = without_comments_and_strings(before_tests(text));
    let mut names = Vec::new();
    for line in code.lines() {
        let is_indented = line.starts_with(' ');
        let line = match line.trim_start().strip_prefix("pub(") {
            Some(rest) => rest.split_once(')').map_or("", |(_, rest)| rest),
            None => line.trim_start().trim_start_matches("pub "),
        };
        let mut words = line.split_whitespace();
        let (Some(kind), Some(name)) = (words.next(), words.next()) else { continue };
        let is_type =
            matches!(kind, "struct" | "enum" | "trait" | "union") || (kind == "type" && !is_indented);
        if is_type {
            names.push(name.chars().take_while(|c| is_word(*c)).collect());
        }
    }
    names
}
