//! `install.sh` with a release made of this build's client: what it installs, how it fetches, and what it refuses.
#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests run programs and panic on failure"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const INSTALLED: [&str; 7] = [
    "bin/spa-knock",
    "share/bash-completion/completions/spa-knock",
    "share/fish/vendor_completions.d/spa-knock.fish",
    "share/man/man1/spa-knock.1",
    "share/man/man5/spa-knock-key.5",
    "share/spa-knock/installed-client",
    "share/zsh/site-functions/_spa-knock",
];

/// The files of a release, in a directory.
struct Release(TempDir);

/// An unsigned release and a signed one, made once.
static RELEASE: LazyLock<Release> = LazyLock::new(|| Release::new(VERSION, &stripped()));
static SIGNED: LazyLock<Release> = LazyLock::new(|| RELEASE.signed());

fn archive() -> String {
    format!("spa-knock-{VERSION}-{}-unknown-linux-musl.tar.gz", std::env::consts::ARCH)
}

/// This build's client without symbols, which are most of it.
fn stripped() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("spa-knock-stripped");
    let client = env!("CARGO_BIN_EXE_spa-knock");
    let status = Command::new("strip").args(["-o", program.to_str().unwrap(), client]).status();
    if status.is_ok_and(|status| status.success()) { program } else { client.into() }
}

/// Runs functions of the scripts that make a release. License texts are those of the release itself only.
fn run_bash(script: &str, args: &[&Path]) {
    let script = format!(
        "set -euo pipefail; for file in lib reproducible archive; do source {}/scripts/$file.sh; done; \
         export SOURCE_DATE_EPOCH=1; print_licenses() {{ echo; }}; {script}",
        env!("CARGO_MANIFEST_DIR")
    );
    let output = Command::new("bash").args(["-c", &script, "release"]).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

impl Release {
    fn new(version: &str, program: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        run_bash(
            &format!(
                "version={version}; pack_client \"$1\" \"$2\" {}-unknown-linux-musl \"$3\"; write_installers \"$3\"; \
                 write_checksums \"$3\"",
                std::env::consts::ARCH
            ),
            &[program, Path::new(env!("CARGO_BIN_EXE_spa-knock")), directory.path()],
        );
        Self(directory)
    }

    fn copy(&self) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.0.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, directory.path().join(path.file_name().unwrap())).unwrap();
        }
        Self(directory)
    }

    /// The same, signed with a new key.
    fn signed(&self) -> Self {
        let release = self.copy();
        let keys = tempfile::tempdir().unwrap();
        run_bash(
            "minisign -G -W -p \"$1/key.pub\" -s \"$1/key\" >/dev/null; \
             write_installers \"$2\" \"$(sed -n 2p \"$1/key.pub\")\"; write_checksums \"$2\"; \
             source <(sed -n '/^sign() {/,/^}/p' \"$top/scripts/release\"); dist=$2; sign \"$1/key\"",
            &[keys.path(), release.0.path()],
        );
        release
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Changes the bytes of a file.
    fn alter(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        change(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }
}

/// A user with an empty home directory.
struct User {
    home: TempDir,
    scratch: TempDir,
    path: String,
    shell: Vec<&'static str>,
}

impl User {
    fn new() -> Self {
        let path = std::env::var("PATH").unwrap();
        Self {
            home: tempfile::tempdir().unwrap(),
            scratch: tempfile::tempdir().unwrap(),
            path,
            shell: vec!["dash"],
        }
    }

    /// With these programs as PATH alone.
    fn with_programs(programs: &Path) -> Self {
        Self { path: programs.to_str().unwrap().to_owned(), ..Self::new() }
    }

    fn command(&self, release: &Release, url: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.shell[0]);
        command.args(&self.shell[1..]).arg(release.path("install.sh")).args(args);
        command.env_clear().env("PATH", &self.path).env("HOME", self.home.path());
        command.env("TMPDIR", self.scratch.path()).env("SPA_KNOCK_RELEASE_URL", url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, release: &Release, args: &[&str]) -> Output {
        self.command(release, release.0.path().to_str().unwrap(), args).output().unwrap()
    }

    fn succeed(&self, release: &Release, args: &[&str]) -> String {
        let output = self.run(release, args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Everything below the home directory; directories end with a slash.
    fn everything(&self) -> BTreeSet<String> {
        let (mut found, mut folders) = (BTreeSet::new(), vec![self.home.path().to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.home.path()).unwrap().to_str().unwrap().to_owned();
                if path.is_dir() && !path.is_symlink() {
                    found.insert(format!("{name}/"));
                    folders.push(path);
                } else {
                    found.insert(name);
                }
            }
        }
        found
    }

    fn files(&self) -> Vec<String> {
        self.everything().into_iter().filter(|name| !name.ends_with('/')).collect()
    }

    fn is_installed(&self) {
        assert_eq!(self.files(), INSTALLED.map(|file| format!(".local/{file}")));
        let program = self.home.path().join(".local/bin/spa-knock");
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        let output = Command::new(program).arg("--version").output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("spa-knock {VERSION}\n"));
        self.has_no_scratch_files();
    }

    fn has_no_scratch_files(&self) {
        assert_eq!(fs::read_dir(self.scratch.path()).unwrap().count(), 0);
    }

    /// Nothing is installed, and nothing is left: no file, no directory.
    fn is_untouched_by(&self, output: &Output, message: &str) {
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(errors.contains(message), "{message}: {errors}");
        assert_eq!(self.everything(), BTreeSet::new(), "{message}");
        self.has_no_scratch_files();
    }
}

/// A directory with links to all programs, except some.
fn programs_without(absent: &[&str]) -> TempDir {
    let bin = tempfile::tempdir().unwrap();
    for folder in std::env::split_paths(&std::env::var("PATH").unwrap()) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if !absent.iter().any(|name| *name == entry.file_name()) {
                let _ = symlink(entry.path(), bin.path().join(entry.file_name()));
            }
        }
    }
    bin
}

/// busybox's programs alone, as on small systems.
fn busybox() -> TempDir {
    let bin = tempfile::tempdir().unwrap();
    let output = Command::new("busybox").args(["--install", "-s"]).arg(bin.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    bin
}

/// Serves a directory on loopback for as long as the test runs. Of a file that is `stuck`, only the header is sent, and a
/// message to the receiver.
fn serve(directory: PathBuf, stuck: Option<String>) -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let name = requested(&mut stream);
            let Ok(bytes) = fs::read(directory.join(&name)) else {
                let _ = stream.write_all(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n");
                continue;
            };
            let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
            if stuck.as_ref() == Some(&name) {
                open.push(stream);
                let _ = sender.send(());
            } else {
                let _ = stream.write_all(&bytes);
            }
        }
    });
    (url, receiver)
}

/// Reads a request, and returns the file that it asks for.
fn requested(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    request.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned()
}

#[test]
fn every_shell_and_every_way_to_fetch_install_the_same_files() {
    let small = busybox();
    let without_curl = programs_without(&["curl"]);
    let directory = RELEASE.0.path().to_str().unwrap();
    let (http, _) = serve(RELEASE.0.path().to_owned(), None);
    for (shell, programs, url) in [
        (vec!["dash"], None, directory),
        (vec!["dash"], None, http.as_str()),
        (vec!["dash"], Some(without_curl.path()), http.as_str()),
        (vec!["bash", "--posix"], None, &format!("file://{directory}/")),
        (vec!["sh"], Some(small.path()), http.as_str()),
        (vec!["sh"], Some(small.path()), directory),
    ] {
        let mut user = programs.map_or_else(User::new, User::with_programs);
        let shell_file = small.path().join("sh");
        let busybox_sh: &'static str = Box::leak(shell_file.to_str().unwrap().to_owned().into_boxed_str());
        user.shell = if shell == ["sh"] { vec![busybox_sh] } else { shell };
        let output = user.command(&RELEASE, url, &[]).output().unwrap();
        assert!(output.status.success(), "{:?} {url}: {output:?}", user.shell);
        user.is_installed();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let bin = user.home.path().join(".local/bin");
        assert!(stdout.contains(&format!("installed spa-knock {VERSION}: {}", bin.display())), "{stdout}");
        assert!(stdout.contains(&format!("PATH={}:$PATH", bin.display())), "{stdout}");
        let output = user.command(&RELEASE, url, &["--uninstall"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let left: Vec<_> = user.everything().into_iter().collect();
        assert_eq!(left, [".local/"]);
    }
}

#[test]
fn a_script_on_standard_input_installs_and_a_part_of_it_does_nothing() {
    let text = fs::read(RELEASE.path("install.sh")).unwrap();
    for (length, is_whole) in [(text.len(), true), (text.len() - 20, false), (text.len() / 2, false)] {
        let user = User::new();
        let mut command = Command::new("dash");
        command.args(["-s"]).env("HOME", user.home.path()).env("TMPDIR", user.scratch.path());
        command.env("SPA_KNOCK_RELEASE_URL", RELEASE.0.path()).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // A shell that fails early closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(&text[..length]);
        child.wait().unwrap();
        if is_whole {
            user.is_installed();
        } else {
            assert_eq!(user.everything(), BTreeSet::new(), "{length} bytes");
        }
    }
}

#[test]
fn a_damaged_or_incomplete_release_is_refused_and_leaves_nothing() {
    type Damage = fn(&Release);
    let cases: [(Damage, &str); 6] = [
        (
            |release| release.alter(&archive(), |bytes| bytes[1000] ^= 1),
            "damaged or altered; nothing is installed",
        ),
        (
            |release| release.alter(&archive(), |bytes| bytes.truncate(1000)),
            "damaged or altered; nothing is installed",
        ),
        (
            |release| fs::write(release.path(&archive()), "").unwrap(),
            "damaged or altered; nothing is installed",
        ),
        (|release| fs::remove_file(release.path(&archive())).unwrap(), "nothing is installed"),
        (
            |release| fs::write(release.path("SHA256SUMS"), "").unwrap(),
            "SHA256SUMS: the release has no spa-knock-",
        ),
        (|release| fs::remove_file(release.path("SHA256SUMS")).unwrap(), "SHA256SUMS"),
    ];
    for (damage, message) in cases {
        let release = RELEASE.copy();
        damage(&release);
        let user = User::new();
        user.is_untouched_by(&user.run(&release, &[]), message);
        let (http, _) = serve(release.0.path().to_owned(), None);
        user.is_untouched_by(&user.command(&release, &http, &[]).output().unwrap(), message);
    }
}

#[test]
fn a_program_that_does_not_run_here_is_refused() {
    let program = tempfile::NamedTempFile::new().unwrap();
    fs::write(program.path(), "#!/bin/sh\nexit 1\n").unwrap();
    let user = User::new();
    user.is_untouched_by(&user.run(&Release::new(VERSION, program.path()), &[]), "does not run here");
}

#[test]
fn both_programs_verify_a_signature_and_refuse_a_wrong_one() {
    let signify = programs_without(&["minisign"]);
    let none = programs_without(&["minisign", "signify", "signify-openbsd"]);
    let users = || [User::new(), User::with_programs(signify.path())];
    for user in users() {
        let output = user.succeed(&SIGNED, &[]);
        user.is_installed();
        assert!(!output.contains("not verified"), "{output}");
    }
    let user = User::with_programs(none.path());
    let output = user.succeed(&SIGNED, &[]);
    assert!(
        output.contains("the signature is not verified: neither minisign nor signify is installed"),
        "{output}"
    );

    // Someone who can change the files changes the checksum, too.
    let altered = SIGNED.copy();
    altered.alter(&archive(), |bytes| bytes.push(0));
    run_bash(
        "cp \"$1/SHA256SUMS.minisig\" \"$1/kept\"; write_checksums \"$1\"; mv \"$1/kept\" \"$1/SHA256SUMS.minisig\"",
        &[altered.0.path()],
    );
    let unsigned = SIGNED.copy();
    fs::remove_file(unsigned.path("SHA256SUMS.minisig")).unwrap();
    // Signed with another key.
    let other = SIGNED.copy();
    fs::copy(RELEASE.signed().path("SHA256SUMS.minisig"), other.path("SHA256SUMS.minisig")).unwrap();
    for (release, message) in [
        (&altered, "SHA256SUMS: wrong signature: the files are not of this release; nothing is installed"),
        (&unsigned, "SHA256SUMS.minisig"),
        (&other, "SHA256SUMS: wrong signature"),
    ] {
        for user in users() {
            user.is_untouched_by(&user.run(release, &[]), message);
        }
    }
}

#[test]
fn plain_http_from_another_machine_needs_a_verified_signature() {
    let user = User::new();
    // Refused before anything is sent.
    for url in ["http://192.0.2.1/files", "http://127.0.0.1.example/", "http://localhost@192.0.2.1/"] {
        let output = user.command(&RELEASE, url, &[]).output().unwrap();
        user.is_untouched_by(&output, "only https:// is accepted");
    }
    let output = user.command(&RELEASE, "ftp://192.0.2.1/", &[]).output().unwrap();
    user.is_untouched_by(&output, "neither a directory nor a file:// or https:// URL");
}

#[test]
fn an_upgrade_replaces_every_file_and_removes_those_of_the_older_version() {
    let program = tempfile::NamedTempFile::new().unwrap();
    fs::write(program.path(), "#!/bin/sh\necho spa-knock 0.0.9\n").unwrap();
    let older = Release::new("0.0.9", program.path());
    let user = User::new();
    user.succeed(&older, &[]);
    let list = user.home.path().join(".local/share/spa-knock/installed-client");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    fs::write(&list, format!("{}file {empty} share/man/man1/old.1\n", fs::read_to_string(&list).unwrap()))
        .unwrap();
    fs::write(user.home.path().join(".local/share/man/man1/old.1"), "").unwrap();

    // A damaged upgrade leaves the older version as it was.
    let before: Vec<_> = user.files();
    let damaged = RELEASE.copy();
    damaged.alter(&archive(), |bytes| bytes[1000] ^= 1);
    assert!(!user.run(&damaged, &[]).status.success());
    assert_eq!(user.files(), before);
    let output = Command::new(user.home.path().join(".local/bin/spa-knock")).output().unwrap();
    assert_eq!(output.stdout, b"spa-knock 0.0.9\n");

    let output = user.succeed(&RELEASE, &[]);
    assert!(output.contains(&format!("installed spa-knock {VERSION} over spa-knock 0.0.9: ")), "{output}");
    user.is_installed();
    user.succeed(&RELEASE, &["--uninstall"]);
    assert_eq!(user.everything().into_iter().collect::<Vec<_>>(), [".local/"]);
}

#[test]
fn files_of_others_are_neither_replaced_nor_removed() {
    let user = User::new();
    let bin = user.home.path().join("tools/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("spa-knock"), "mine").unwrap();
    let output = user.run(&RELEASE, &["--prefix", user.home.path().join("tools").to_str().unwrap()]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("bin/spa-knock: not of install.sh; nothing is installed\nhint: move it away"),
        "{errors}"
    );
    assert_eq!(user.files(), ["tools/bin/spa-knock"]);

    let output = user.run(&RELEASE, &["--uninstall"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("installed nothing below"), "{output:?}");
    user.succeed(&RELEASE, &[]);
    let page = user.home.path().join(".local/share/man/man1/spa-knock.1");
    fs::write(&page, "mine").unwrap();
    fs::write(user.home.path().join(".local/bin/other"), "mine").unwrap();
    let output = user.succeed(&RELEASE, &["--uninstall"]);
    assert!(output.contains(&format!("{} has been modified and stays", page.display())), "{output}");
    assert_eq!(
        user.files(),
        [".local/bin/other", ".local/share/man/man1/spa-knock.1", "tools/bin/spa-knock"]
    );
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    let (url, reached) = serve(RELEASE.0.path().to_owned(), Some(archive()));
    let user = User::new();
    let child = user.command(&RELEASE, &url, &[]).process_group(0).spawn().unwrap();
    reached.recv().unwrap();
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-TERM", "--", &group]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(user.everything(), BTreeSet::new());
    user.has_no_scratch_files();
}

#[test]
fn an_unwritable_place_is_refused_and_leaves_nothing() {
    // A file where a directory must be: root, too, cannot write there.
    let user = User::new();
    fs::create_dir_all(user.home.path().join(".local/share/zsh")).unwrap();
    fs::write(user.home.path().join(".local/share/zsh/site-functions"), "mine").unwrap();
    let before = user.everything();
    let output = user.run(&RELEASE, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("cannot be made; nothing is installed"),
        "{output:?}"
    );
    assert_eq!(user.everything(), before);
    user.has_no_scratch_files();
}

/// The lines of a file from one that starts with `first` to the next that is `last`, both without their indentation.
fn lines_of(path: &str, first: &str, last: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let lines: Vec<_> = text.lines().skip_while(|line| !line.trim_start().starts_with(first)).collect();
    let indent: String = lines[0].chars().take_while(|c| *c == ' ').collect();
    let before = lines.into_iter().take_while(|line| *line != format!("{indent}{last}"));
    before.chain([last]).map(|line| format!("{}\n", line.trim_start())).collect()
}

/// `contrib/gitlab-ci.yml` has the same text as `contrib/action.yml`; a test of the recipes compares them.
#[test]
fn the_installer_and_the_recipes_for_ci_choose_the_same_archive_for_each_system() {
    let installer = format!("{}find_target\n", lines_of("packaging/install.sh", "find_target() {", "}"));
    let recipe = format!(
        "{}echo $target\n",
        lines_of("contrib/action.yml", "case $(uname -s)/$(uname -m) in", "esac")
    );
    let target = |script: &str, system: &str, machine: &str| {
        let stubs = format!(
            "set -eu\nuname() {{ if [ $1 = -s ]; then echo {system}; else echo {machine}; fi; }}\n\
             sysctl() {{ return 1; }}\nfail() {{ exit 1; }}\n"
        );
        let output = Command::new("dash").args(["-c", &format!("{stubs}{script}")]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let mut known = 0;
    for system in ["Linux", "Darwin", "FreeBSD"] {
        for machine in ["x86_64", "amd64", "aarch64", "arm64", "i686", "riscv64"] {
            let [by_installer, by_recipe] =
                [&installer, &recipe].map(|script| target(script, system, machine));
            assert_eq!(by_installer, by_recipe, "{system} {machine}");
            known += usize::from(by_installer.is_some());
        }
    }
    assert_eq!(known, 8);
}
