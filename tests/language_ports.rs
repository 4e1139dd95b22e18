//! The clients in other languages agree with the protocol's vectors, and are short enough to be read before they are
//! embedded.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests start programs and panic on failure"
)]

mod language;

use language::{Language, path, run};

/// The most lines of a file that programs embed.
const LINES: usize = 299;

#[test]
fn every_library_file_is_short_and_names_its_license() {
    for file in Language::ALL.iter().flat_map(|language| language.library()) {
        let text = std::fs::read_to_string(path(file)).unwrap();
        let lines = text.lines().count();
        assert!(lines <= LINES, "{file}: {lines} lines; at most {LINES}");
        assert!(text.contains("SPDX-License-Identifier: MIT OR Apache-2.0"), "{file}: states no license");
    }
}

#[test]
fn the_python_client_agrees_with_the_vectors() {
    check(Language::Python);
}

#[test]
fn the_javascript_client_agrees_with_the_vectors() {
    check(Language::JavaScript);
}

#[test]
fn the_go_client_agrees_with_the_vectors() {
    check(Language::Go);
}

#[test]
fn the_java_client_agrees_with_the_vectors() {
    check(Language::Java);
}

fn check(language: Language) {
    if !language.is_tested() {
        return;
    }
    let printed: Vec<String> = language.checks().iter().map(|words| run(words)).collect();
    let last = printed.last().unwrap();
    assert!(last.contains("24 vectors, 10000 changed replies") || language == Language::Go, "{last}");
    println!("{last}");
}
