//! `scripts/release` refuses what must not be published, and `scripts/crates` describes every crate. `scripts/test-release`
//! tests the files themselves.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests run programs and panic on failure"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const TARGETS: [&str; 7] = [
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    "x86_64-pc-windows-gnu",
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
];

fn run(program: &Path, directory: &Path, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(program);
    command.args(args).current_dir(directory).env("SOURCE_DATE_EPOCH", "1").env_remove("CARGO_TARGET_DIR");
    // git must neither find this project nor a user's settings.
    command.env("GIT_CEILING_DIRECTORIES", directory.parent().unwrap()).env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = command.output().unwrap();
    let is_success = output.status.success();
    // cargo reports on standard error that it waits for another one.
    let text = if is_success { output.stdout } else { [output.stdout, output.stderr].concat() };
    (is_success, String::from_utf8(text).unwrap())
}

fn crates(args: &[&str]) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (is_success, text) = run(&top.join("scripts/crates"), top, args);
    assert!(is_success, "{text}");
    text
}

#[test]
fn what_must_not_be_published_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    fs::create_dir_all(copy.join("scripts")).unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files =
        ["Cargo.toml", "scripts/release", "scripts/lib.sh", "scripts/reproducible.sh", "scripts/archive.sh"];
    for file in files {
        fs::copy(top.join(file), copy.join(file)).unwrap();
    }
    fs::write(copy.join("CHANGELOG.md"), "## [0.1.0] - unreleased\n").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    let (tag, heading) = (format!("git tag -s v{version}"), format!("\"## [{version}] - DATE\""));
    let problems = [
        "homepage are placeholders",
        "no signature: add --sign KEYFILE",
        "uncommitted changes",
        &tag,
        &heading,
    ];
    // The problems that are left after each step, by their place in the list.
    let steps: [(&str, &[usize]); 5] = [
        ("git init --quiet", &[0, 1, 2, 3, 4]),
        ("sed -i s/spa-knock.invalid/spa-knock.example/ Cargo.toml", &[1, 2, 3, 4]),
        ("echo '## [VERSION] - 2030-01-02' >>CHANGELOG.md", &[1, 2, 3]),
        ("git add . && git -c user.name=a -c user.email=a@b commit --quiet -m x", &[1, 3]),
        ("git -c user.name=a -c user.email=a@b tag -a -m x vVERSION", &[1]),
    ];
    for (step, left) in steps {
        let step = step.replace("VERSION", version);
        let (is_success, text) = run(Path::new("bash"), &copy, &["-c", &step]);
        assert!(is_success, "{step}: {text}");
        let (is_success, text) = run(&copy.join("scripts/release"), &copy, &["--release"]);
        assert!(!is_success, "{text}");
        let found: Vec<usize> = (0..problems.len()).filter(|place| text.contains(problems[*place])).collect();
        assert_eq!(found, left, "{step}: {text}");
        assert!(text.contains(&format!("version {version} cannot be released")), "{text}");
    }
    assert!(!copy.join("target").exists(), "nothing is built");
}

#[test]
fn every_crate_has_a_license_text_and_is_in_the_bill_of_materials() {
    let options: Vec<&str> = TARGETS
        .iter()
        .flat_map(|target| {
            [
                if target.ends_with("gnu") && target.contains("linux") { "--daemon" } else { "--client" },
                target,
            ]
        })
        .collect();
    let texts = crates(&[&["licenses"], options.as_slice()].concat());
    let text = crates(&[&["sbom"], options.as_slice()].concat());
    assert_eq!(text, crates(&[&["sbom"], options.as_slice()].concat()), "twice the same");
    let bill: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bill["specVersion"], "1.5");
    assert_eq!(bill["metadata"]["timestamp"], "1970-01-01T00:00:01Z");
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let mut linked: Vec<&str> = Vec::new();
    for component in bill["components"].as_array().unwrap() {
        let [name, version] = ["name", "version"].map(|key| component[key].as_str().unwrap());
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n")), "{component}");
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        if !name.starts_with("spa-knock-") {
            assert!(lock.contains(component["hashes"][0]["content"].as_str().unwrap()), "{component}");
        }
        if component["scope"] == "required" {
            linked.push(name);
        }
    }
    for name in ["hmac", "ring", "pcap", "clap", "windows-sys", "libc"] {
        assert!(linked.contains(&name), "{name}: {linked:?}");
    }
    // Those of the daemon on Linux are in both.
    for name in ["pcap", "qrcodegen-no-heap", "seccompiler", "hmac"] {
        assert!(texts.contains(&format!("\n{name} ")), "{name}");
    }
    assert!(
        texts.contains("Copyright (c) Project Nayuki. (MIT License)"),
        "a license at the top of a source file"
    );
}
