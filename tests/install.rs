//! `scripts/install` with a scratch directory as root: installed files, refusals and uninstallation.
#![cfg(all(feature = "daemon", feature = "legacy", target_os = "linux"))]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests run programs and panic on failure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// An empty machine.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path(path)).unwrap().permissions().mode() & 0o7777
    }

    /// Runs the script with these arguments and this prefix; an installation uses the programs of this build.
    fn run(&self, prefix: &str, args: &[&str]) -> Output {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install"));
        command.env("DESTDIR", self.0.path()).env("PREFIX", prefix).args(args).stdin(Stdio::null());
        if !args.contains(&"--uninstall") {
            command.arg("--binaries").arg(Path::new(env!("CARGO_BIN_EXE_spa-knockd")).parent().unwrap());
        }
        command.output().unwrap()
    }

    /// Runs the script, which must succeed, and returns its output.
    fn succeed(&self, prefix: &str, args: &[&str]) -> String {
        let output = self.run(prefix, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// All files and links.
    fn files(&self) -> BTreeSet<String> {
        let (mut files, mut folders) = (BTreeSet::new(), vec![self.0.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
                if kind.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.strip_prefix(self.0.path()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files
    }
}

fn first_word_of(program: &Path) -> String {
    let output = Command::new(program).arg("-V").output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn every_file_is_in_its_place_and_the_units_find_the_daemon() {
    for (prefix, units) in [
        ("/usr/local", "usr/local/lib/systemd/system"),
        ("/usr", "usr/lib/systemd/system"),
        ("/opt/spa-knock", "etc/systemd/system"),
    ] {
        let machine = Machine::new();
        machine.succeed(prefix, &[]);
        let below = |path: &str| format!("{}/{path}", prefix.trim_start_matches('/'));
        for (path, mode) in [
            (below("bin/spa-knock"), 0o755),
            (below("sbin/spa-knockd"), 0o755),
            (below("libexec/spa-knock/spa-knock-watcher"), 0o755),
            (below("libexec/spa-knock/spa-knock-legacy-watcher"), 0o755),
            (below("libexec/spa-knock/spa-knock-fwknop-watcher"), 0o755),
            (below("share/man/man8/spa-knockd.8.gz"), 0o644),
            (below("share/bash-completion/completions/spa-knock"), 0o644),
            (below("share/doc/spa-knock/internals/architecture.md"), 0o644),
            (below("share/doc/spa-knock/examples/spa-knockd.toml"), 0o644),
            ("etc/spa-knock".to_owned(), 0o755),
            ("etc/logrotate.d/spa-knock".to_owned(), 0o644),
            ("etc/spa-knock/keys".to_owned(), 0o700),
        ] {
            assert_eq!(machine.mode(&path), mode, "{path}");
        }
        for (unit, args) in [
            ("spa-knockd.service", " run"),
            ("spa-knock-gate.service", " restore-gate"),
            ("spa-knockd-legacy.service", " knockd $KNOCKD_OPTS"),
            ("spa-knockd-fwknopd.service", " fwknopd --foreground"),
        ] {
            let text = machine.read(&format!("{units}/{unit}"));
            assert!(text.contains(&format!("\nExecStart={prefix}/sbin/spa-knockd{args}\n")), "{text}");
            let commands = text.lines().filter(|line| line.starts_with("Exec"));
            let other: Vec<_> =
                commands.filter(|line| line.contains("/usr/local/") && prefix != "/usr/local").collect();
            assert!(other.is_empty(), "{other:?}");
        }
        assert!(!machine.path(&below("sbin/knockd")).exists(), "only --knockd installs it");
    }
}

#[test]
fn uninstalling_removes_every_installed_file_but_no_config_key_or_state() {
    let machine = Machine::new();
    machine.succeed("/usr/local", &["--knockd"]);
    assert_eq!(first_word_of(&machine.path("usr/local/sbin/knockd")), "knockd");
    assert_eq!(first_word_of(&machine.path("usr/local/bin/knock")), "knock");
    let kept = ["etc/spa-knock/spa-knockd.toml", "etc/spa-knock/keys/laptop.key", "var/lib/spa-knock/gate"];
    kept.iter().for_each(|path| machine.write(path, "mine"));
    machine.write("usr/local/bin/other", "another program");
    // An upgrade removes the files of older versions, and keeps links and modes.
    let list = "usr/local/share/spa-knock/installed";
    machine.write("usr/local/bin/old", "");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    machine.write(list, &format!("{}file {empty} /usr/local/bin/old\n", machine.read(list)));
    let before = machine.files();
    machine.succeed("/usr/local", &[]);
    let gone: Vec<_> = before.difference(&machine.files()).cloned().collect();
    assert_eq!(gone, ["usr/local/bin/old"]);

    machine.succeed("/usr/local", &["--uninstall"]);
    let left: Vec<_> = machine.files().into_iter().collect();
    let expected = [kept[1], kept[0], "usr/local/bin/other", kept[2]];
    assert_eq!(left, expected);
    assert!(!machine.path("usr/local/share").exists(), "empty directories are removed");
    assert!(!machine.run("/usr/local", &["--uninstall"]).status.success(), "nothing is installed any more");
}

#[test]
fn uninstalling_leaves_the_daemon_of_another_installation_alone() {
    let machine = Machine::new();
    machine.succeed("/usr", &[]);
    machine.succeed("/opt/spa-knock", &[]);
    let output = machine.succeed("/opt/spa-knock", &["--uninstall"]);
    assert!(output.contains("/usr/sbin/spa-knockd is another installation"), "{output}");
    assert!(machine.path("usr/sbin/spa-knockd").exists());
    let output = machine.succeed("/usr", &["--uninstall"]);
    assert!(!output.contains("another installation"), "{output}");
}

#[test]
fn programs_are_installed_without_strip() {
    let machine = Machine::new();
    // A PATH with all programs except strip.
    let bin = tempfile::tempdir().unwrap();
    for folder in ["/usr/bin", "/bin", "/usr/sbin", "/sbin"] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.to_string_lossy().ends_with("strip") {
                let _ = symlink(entry.path(), bin.path().join(name));
            }
        }
    }
    let binaries = Path::new(env!("CARGO_BIN_EXE_spa-knockd")).parent().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/layout.sh");
    let lay_out = format!(
        "set -euo pipefail; top={}; source {}; lay_out {} {} /usr/local /usr/local/lib/systemd/system site-functions",
        env!("CARGO_MANIFEST_DIR"),
        script.display(),
        binaries.display(),
        machine.path("").display()
    );
    let output = Command::new("bash").args(["-c", &lay_out]).env("PATH", bin.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("binutils"), "{output:?}");
    assert_eq!(first_word_of(&machine.path("usr/local/bin/spa-knock")), "spa-knock");
}

#[test]
fn a_link_never_replaces_another_programs_file_and_the_installation_is_refused() {
    for path in ["usr/sbin/knockd", "usr/bin/knock"] {
        let machine = Machine::new();
        machine.write(path, "from a package");
        let output = machine.run("/usr", &["--knockd"]);
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stdout}");
        assert!(
            stdout.contains(&format!("{}: not of scripts/install", machine.path(path).display())),
            "{stdout}"
        );
        assert!(stdout.contains("hint: move it away, or install below /usr/local"), "{stdout}");
        assert_eq!(machine.files().into_iter().collect::<Vec<_>>(), [path]);
        assert_eq!(machine.read(path), "from a package");
        machine.succeed("/usr", &[]);
        machine.succeed("/usr/local", &["--knockd"]);
    }
    let machine = Machine::new();
    fs::create_dir_all(machine.path("usr/local/sbin")).unwrap();
    symlink("/usr/sbin/other", machine.path("usr/local/sbin/knockd")).unwrap();
    assert!(
        !machine.run("/usr/local", &["--knockd"]).status.success(),
        "another link is not replaced either"
    );
}

#[test]
fn uninstalling_keeps_and_reports_modified_files() {
    let machine = Machine::new();
    machine.succeed("/usr/local", &["--knockd"]);
    let unit = "usr/local/lib/systemd/system/spa-knockd.service";
    machine.write(unit, "[Service]\n");
    fs::remove_file(machine.path("usr/local/sbin/knockd")).unwrap();
    machine.write("usr/local/sbin/knockd", "another program");
    let output = machine.succeed("/usr/local", &["--uninstall"]);
    let left: Vec<_> = machine.files().into_iter().collect();
    assert_eq!(left, [unit, "usr/local/sbin/knockd"]);
    for path in left {
        assert!(output.contains(&format!("{path} has been modified and stays")), "{output}");
    }
}

#[test]
fn a_prefix_that_the_units_cannot_name_or_access_is_refused() {
    for prefix in ["usr", "/usr/a b", "/usr/../opt", "/home/me", "/usr//local", "/opt/|x"] {
        let machine = Machine::new();
        let output = machine.run(prefix, &[]);
        assert_eq!(output.status.code(), Some(1), "{prefix}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("PREFIX={prefix}: ")), "{prefix}");
        assert!(machine.files().is_empty());
    }
    assert_eq!(Machine::new().run("/usr/local", &["--nothing"]).status.code(), Some(2));
}
