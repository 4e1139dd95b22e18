//! Man pages of both programs and both file formats, and completions: complete, and without errors reported by the
//! formatters on this machine.
#![cfg(all(feature = "daemon", feature = "legacy"))]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests run programs"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROGRAMS: [(&str, &str); 2] =
    [("spa-knock", env!("CARGO_BIN_EXE_spa-knock")), ("spa-knockd", env!("CARGO_BIN_EXE_spa-knockd"))];

fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program, if it is installed on this machine.
fn run_if_installed(program: &str, args: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    if output.is_err() {
        println!("skipped: {program} is not installed");
    }
    output.ok()
}

fn assert_without_errors(page: &Path) {
    let path = page.to_str().unwrap();
    if let Some(output) = run_if_installed("man", &["--warnings", "-l", path]) {
        assert!(output.status.success() && output.stderr.is_empty(), "{path}: {output:?}");
    }
    if let Some(output) = run_if_installed("mandoc", &["-T", "lint", "-W", "warning", path]) {
        let stdout = String::from_utf8(output.stdout).unwrap();
        // Pages have no date, so that the same source always produces the same page.
        let errors: Vec<_> = stdout.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

#[test]
fn the_man_pages_of_the_programs_list_options_and_commands_and_have_no_errors() {
    let scratch = tempfile::tempdir().unwrap();
    for ((name, program), needed) in PROGRAMS.into_iter().zip([
        &[
            "spa\\-knock connect",
            "spa\\-knock doctor",
            "\\-\\-server\\-id",
            "\\-\\-ntp",
            "EXIT STATUS",
            "FILES",
            "ENVIRONMENT",
            "EXAMPLES",
            "SEE ALSO",
        ][..],
        &[
            "spa\\-knockd client add",
            "spa\\-knockd gate",
            "\\-\\-overlap",
            "EXIT STATUS",
            "FILES",
            "ENVIRONMENT",
            "EXAMPLES",
            "SEE ALSO",
        ],
    ]) {
        let page = output_of(program, &["man"]);
        for text in needed {
            assert!(page.contains(text), "{name}: {text}");
        }
        let path = scratch.path().join(format!("{name}.man"));
        fs::write(&path, page).unwrap();
        assert_without_errors(&path);
    }
}

#[test]
fn the_man_pages_of_the_file_formats_list_every_key_and_have_no_errors() {
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
    assert_without_errors(&path);

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
    assert_without_errors(&path);
}

/// What a shell of this machine offers for the last word, in a home with a key, a profile, and a server's config.
fn offered(shell: &str, words: &str) -> Option<Vec<String>> {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join(".config/spa-knock");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("bastion.key"), "").unwrap();
    fs::write(folder.join("config.toml"), "[server.home]\naddress = \"192.0.2.1\"\naction = \"open-web\"\n")
        .unwrap();
    let config = scratch.path().join("spa-knockd.toml");
    let client = "key = \"laptop.key\"\nallow = [\"open-ssh\"]\n";
    let server = "[server]\nid = \"s\"\n[action.open-ssh]\nopen = [\"tcp/22\"]\nfor = \"30s\"\n";
    fs::write(&config, format!("{server}[client.laptop]\n{client}")).unwrap();

    let (name, program) =
        PROGRAMS.into_iter().find(|(name, _)| *name == words.split(' ').next().unwrap()).unwrap();
    let script = scratch.path().join("script");
    fs::write(&script, output_of(program, &["completions", shell])).unwrap();
    let words = words.replace("CONFIG", config.to_str().unwrap());
    let list: Vec<&str> = words.split(' ').collect();
    let (quoted, at) =
        (list.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "), list.len() - 1);
    let function = name.replace('-', "_");
    let source = format!("source '{}'", script.display());
    let run = match shell {
        "bash" => format!(
            "{source}; COMP_WORDS=({quoted}) COMP_CWORD={at} COMP_TYPE=9
             _clap_complete_{function} {name} '{}' x; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            list[at]
        ),
        "zsh" => format!(
            "compdef() {{ }}; _describe() {{ print -l -- ${{${{(P)@[-1]}}%%:*}} }}; {source}
             words=({quoted}) CURRENT={}; _clap_dynamic_completer_{function}",
            list.len()
        ),
        _ => format!("{source}; complete --do-complete '{words}' | string replace -r '\\t.*' ''; true"),
    };
    let path = format!("{}:/usr/bin:/bin", Path::new(program).parent().unwrap().display());
    let output = Command::new(shell)
        .args(["-c", &run])
        .env("PATH", path)
        .env("HOME", scratch.path())
        .env_remove("XDG_CONFIG_HOME")
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no {shell} on this machine");
        return None;
    };
    assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {run}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[cfg(unix)]
#[test]
fn shells_complete_subcommands_servers_actions_and_clients() {
    let commands = [
        "completions",
        "connect",
        "derive",
        "doctor",
        "fwknop",
        "import",
        "keep",
        "keygen",
        "legacy",
        "man",
        "show",
    ];
    let first: Vec<&str> = commands.into_iter().chain(["bastion", "home"]).collect();
    for shell in ["bash", "zsh", "fish"] {
        for (words, expected) in [
            ("spa-knock ", first.as_slice()),
            ("spa-knock doc", &["doctor"]),
            ("spa-knock home ", &["open-web"]),
            ("spa-knock connect ", &["bastion", "home"]),
            ("spa-knock keep ", &["bastion", "home"]),
            ("spa-knock keep home ", &["open-web"]),
            ("spa-knock --dry", &["--dry-run"]),
            ("spa-knockd -c CONFIG client show ", &["laptop"]),
            ("spa-knockd -c CONFIG client add new --allow ", &["open-ssh"]),
            ("spa-knockd -c CONFIG client rev", &["revoke"]),
        ] {
            let Some(mut found) = offered(shell, words) else { continue };
            let mut expected = expected.to_vec();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{shell}: {words}");
        }
    }
}

#[test]
fn shells_accept_the_scripts() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, program) in PROGRAMS {
        for shell in ["bash", "zsh", "fish"] {
            let path = scratch.path().join(format!("{name}.{shell}"));
            fs::write(&path, output_of(program, &["completions", shell])).unwrap();
            if let Some(output) = run_if_installed(shell, &["-n", path.to_str().unwrap()]) {
                assert!(output.status.success(), "{name} {shell}: {output:?}");
            }
        }
    }
}
