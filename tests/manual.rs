//! Man pages and completions, of both programs and of both formats of files: whole, and without a fault that the
//! formatters of this machine see.
#![cfg(all(feature = "daemon", feature = "legacy"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, reason = "tests run programs")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAMS: [(&str, &str); 2] =
    [("spa-knock", env!("CARGO_BIN_EXE_spa-knock")), ("spa-knockd", env!("CARGO_BIN_EXE_spa-knockd"))];

fn printed(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program that this machine may not have.
fn tried(program: &str, words: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    if output.is_err() {
        println!("no {program} here");
    }
    output.ok()
}

fn is_without_fault(page: &Path) {
    let path = page.to_str().unwrap();
    if let Some(output) = tried("man", &["--warnings", "-l", path]) {
        assert!(output.status.success() && output.stderr.is_empty(), "{path}: {output:?}");
    }
    if let Some(output) = tried("mandoc", &["-T", "lint", "-W", "warning", path]) {
        let told = String::from_utf8(output.stdout).unwrap();
        // Pages have no date, so that the same source makes the same page.
        let faults: Vec<_> = told.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(faults.is_empty(), "{faults:#?}");
    }
}

#[test]
fn the_programs_pages_name_every_option_and_command_and_are_without_fault() {
    let scratch = tempfile::tempdir().unwrap();
    for ((name, program), needed) in PROGRAMS.into_iter().zip([
        &["spa\\-knock connect", "spa\\-knock doctor", "\\-\\-server\\-id", "\\-\\-ntp", "Exit codes:"][..],
        &["spa\\-knockd client add", "spa\\-knockd gate", "\\-\\-overlap", "Exit codes:"],
    ]) {
        let page = printed(program, &["man"]);
        for text in needed {
            assert!(page.contains(text), "{name}: {text}");
        }
        let path = scratch.path().join(format!("{name}.man"));
        fs::write(&path, page).unwrap();
        is_without_fault(&path);
    }
}

#[test]
fn the_pages_of_the_files_name_every_key_and_are_without_fault() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man");
    let page = |name: &str| -> (PathBuf, String) {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).unwrap().replace("\\-", "-");
        (path, text)
    };
    let (path, text) = page("spa-knock-key.5");
    for key in ["spa-knock-key", "kind", "client", "server", "address", "port", "secret"] {
        assert!(text.contains(&format!(".B {key}\n")), "{key}");
    }
    is_without_fault(&path);

    let (path, text) = page("spa-knockd.toml.5");
    let example = include_str!("../packaging/spa-knockd.toml");
    let keys = example.lines().map(|line| line.trim_start_matches('#').trim()).filter_map(|line| {
        let (key, _) = line.split_once(" = ")?;
        key.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'-' | b'_')).then_some(key)
    });
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        assert!(
            text.contains(&format!(".B {key}\n")),
            "{key} is in packaging/spa-knockd.toml, not in {path:?}"
        );
    }
    is_without_fault(&path);
}

#[test]
fn shells_accept_the_completions() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, program) in PROGRAMS {
        for shell in ["bash", "zsh", "fish"] {
            let script = printed(program, &["completions", shell]);
            assert!(script.contains(name) && script.contains("config"), "{name} {shell}");
            let path = scratch.path().join(format!("{name}.{shell}"));
            fs::write(&path, script).unwrap();
            if let Some(output) = tried(shell, &["-n", path.to_str().unwrap()]) {
                assert!(output.status.success(), "{name} {shell}: {output:?}");
            }
        }
    }
}

#[cfg(unix)]
#[test]
fn bash_completes_the_subcommands() {
    let program = PROGRAMS.first().expect("two programs").1;
    let script = printed(program, &["completions", "bash"]);
    let asked = "COMP_WORDS=(spa-knock doc); COMP_CWORD=1; _spa__knock spa-knock doc spa-knock; echo \"${COMPREPLY[@]}\"";
    let Some(output) = tried("bash", &["-c", &format!("{script}\n{asked}")]) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "doctor\n", "{output:?}");
}
