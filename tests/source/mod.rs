//! Reads the project's own files, for the tests that check their text.
#![allow(dead_code, reason = "each test uses some of the functions")]

use std::path::{Path, PathBuf};

/// The absolute path of a file or folder of the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The path relative to the top of the project.
pub(crate) fn name_of(path: &Path) -> String {
    path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(path).display().to_string()
}

/// All Rust files below a folder, sorted.
pub(crate) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// All files below a folder, sorted.
pub(crate) fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(folder, &mut files);
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
    files.sort();
}

/// Removes the files of modules that are declared as `#[cfg(test)] mod NAME;`.
pub(crate) fn without_test_files(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut tests = Vec::new();
    for path in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let declared = text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
            let line =
                rest.lines().next()?.trim_start_matches("pub(super) ").trim_start_matches("pub(crate) ");
            line.strip_prefix("mod ")?.strip_suffix(';')
        });
        let is_folder = matches!(path.file_name().and_then(|name| name.to_str()), Some("mod.rs" | "lib.rs"));
        let folder = if is_folder { path.parent().unwrap().to_owned() } else { path.with_extension("") };
        tests.extend(declared.flat_map(|name| [folder.join(format!("{name}.rs")), folder.join(name)]));
    }
    files.into_iter().filter(|path| !tests.iter().any(|test| path.starts_with(test))).collect()
}

/// The text of a file before its tests, which are at the end by convention.
pub(crate) fn before_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text)
}

/// The text with comments and string literals replaced by spaces, so that line numbers and offsets stay the same.
pub(crate) fn without_comments_and_strings(text: &str) -> String {
    extract(text, Part::Code)
}

/// The text with everything except comments and string literals replaced by spaces.
pub(crate) fn comments_and_strings(text: &str) -> String {
    extract(text, Part::Text)
}

#[derive(PartialEq, Eq)]
enum Part {
    Code,
    Text,
}

fn extract(text: &str, which: Part) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = token_to_blank(rest);
        let is_kept = (length == 0) == (which == Part::Code);
        let (token, after) = rest.split_at(if length == 0 { first.len_utf8() } else { length });
        if is_kept {
            code.push_str(token);
        } else {
            code.extend(token.bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }));
        }
        rest = after;
    }
    code
}

/// The length in bytes of the comment or string literal at the start of `rest`; 0 if there is none.
fn token_to_blank(rest: &str) -> usize {
    let until = |end: &str, from: usize| {
        rest[from..].find(end).map_or(rest.len(), |at| from.saturating_add(at).saturating_add(end.len()))
    };
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return until("*/", 2);
    }
    if rest.starts_with("r#\"") {
        return until("\"#", 3);
    }
    if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
        return until("'", 2);
    }
    if !rest.starts_with('"') {
        return 0;
    }
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at.saturating_add(1),
            _ => {}
        }
    }
    rest.len()
}

/// Whether a character can be part of a Rust identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
