//! A server and a client as the pages find them: nothing set up, root on both, sshd on the server.
//!
//! Each has a network namespace, a host name, and folders of its own in place of the machine's `/etc`, `/root`, `/run`,
//! `/var/lib` and `/var/log`. The server is known as `server` and by every name that the pages use for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::documents::Machine;
use crate::net::{Lab, Mounts, Namespace, SERVER4, limited, within};
use crate::ssh::Sshd;

/// Names of the server that pages use.
const NAMES: &str = "server bastion bastion.example.org home.example.org server.example.org";
const CONFIG: &str = "/etc/spa-knock/spa-knockd.toml";
const PROFILES: &str = "/root/.config/spa-knock/config.toml";

pub(super) struct Hosts {
    lab: Lab,
    folder: TempDir,
    mounts: [Mounts; 2],
    _sshd: Sshd,
}

impl Hosts {
    pub(super) fn new() -> Option<Self> {
        let lab = Lab::new()?;
        let folder = tempfile::Builder::new().prefix("spa-knock-docs-").tempdir().unwrap();
        let mounts = ["server", "client"].map(|name| own_folders(&folder.path().join(name), name));
        let programs = folder.path().join("programs");
        fs::create_dir_all(&programs).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/documentation/systemctl");
        std::os::unix::fs::symlink(stand_in, programs.join("systemctl")).unwrap();
        let [nsenter, entrance] = mounts[0].nsenter();
        let mut command = Command::new(nsenter);
        command.args([&entrance, "unshare", "--uts", "bash", "-c"]);
        command.args(["hostname server && mkdir -p /run/sshd && exec /usr/sbin/sshd \"$@\"", "bash"]);
        let sshd = Sshd::start_command(&lab.server, folder.path(), command);
        assert!(within(Duration::from_secs(10), || lab.client.reaches(SERVER4, 22)), "sshd listens");
        let hosts = Self { lab, folder, mounts, _sshd: sshd };
        hosts.let_ssh_in();
        Some(hosts)
    }

    /// The client's root may log in to the server without a question.
    fn let_ssh_in(&self) {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap();
        self.write(Machine::Client, "~/.ssh/id_ed25519", &read("user"));
        let key = read("host.pub");
        let known: Vec<String> = NAMES.split(' ').map(|name| format!("{name} {key}")).collect();
        self.write(Machine::Client, "~/.ssh/known_hosts", &known.concat());
    }

    /// Runs a script to its end, at most 30 s: whether it succeeded, and what it printed.
    pub(super) fn run(&self, machine: Machine, script: &str, input: Option<String>) -> (bool, String) {
        let (status, printed) = self.start(machine, &["exec"], script, input);
        (status.success(), printed)
    }

    /// Interrupts a script after a second: whether it was still running, and what it printed.
    pub(super) fn run_until_stopped(&self, machine: Machine, script: &str) -> (bool, String) {
        let (status, printed) =
            self.start(machine, &["exec", "timeout", "-k", "5", "-s", "INT", "1"], script, None);
        // timeout(1) exits with 124 if it had to stop its command.
        (status.code() == Some(124), printed)
    }

    /// Runs a script with a prefix to its end: how it ended, and what it printed.
    fn start(
        &self,
        machine: Machine,
        prefix: &[&str],
        script: &str,
        input: Option<String>,
    ) -> (ExitStatus, String) {
        let (network, name) = self.machine(machine);
        let path = format!(
            "{}:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.folder.path().join("programs").display(),
            Path::new(env!("CARGO_BIN_EXE_spa-knock")).parent().unwrap().display()
        );
        let state = self.folder.path().join("units");
        fs::create_dir_all(&state).unwrap();
        let script_file = self.folder.path().join("script");
        fs::write(&script_file, script).unwrap();
        let stdin = self.folder.path().join("input");
        fs::write(&stdin, input.unwrap_or_default()).unwrap();
        let printed = self.folder.path().join("printed");
        let out = fs::File::create(&printed).unwrap();
        let [nsenter, entrance] = self.mounts(machine).nsenter();
        let mut command = limited(&nsenter);
        command.args([&entrance, "unshare", "--uts", "bash", "-c"]);
        command
            .arg(format!("hostname \"$1\" && cd /root && {} bash -e -o pipefail \"$2\"", prefix.join(" ")))
            .arg("bash")
            .arg(name)
            .arg(&script_file);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", "/root")
            .env("STAND_IN_STATE", &state)
            .env("LANG", "C.UTF-8");
        command.stdin(fs::File::open(&stdin).unwrap()).stdout(out.try_clone().unwrap()).stderr(out);
        let status = network.spawn(&mut command).wait().unwrap();
        (status, fs::read_to_string(printed).unwrap())
    }

    /// A file of the machine; `~` and names without a folder are in the home of root.
    pub(super) fn read(&self, machine: Machine, path: &str) -> String {
        fs::read_to_string(self.place(machine, path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Writes a file that belongs to root alone, and the folders above it.
    pub(super) fn write(&self, machine: Machine, path: &str, text: &str) {
        let place = self.place(machine, path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(&place, text).unwrap();
        fs::set_permissions(&place, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// Merges a fragment into the machine's config, which must then be accepted.
    pub(super) fn set_config(&self, machine: Machine, fragment: &str, at: &str) {
        let path = if machine == Machine::Server { CONFIG } else { PROFILES };
        let before = if self.place(machine, path).exists() {
            self.read(machine, path)
        } else if machine == Machine::Server {
            "[server]\nid = \"server\"\n".to_owned()
        } else {
            String::new()
        };
        let merged = merge(&before, fragment);
        self.write(machine, path, &merged);
        let check = if machine == Machine::Server {
            "spa-knockd check"
        } else {
            "spa-knock --dry-run --key nowhere server open-ssh"
        };
        let (_, output) = self.run(machine, check, None);
        let refused = output.lines().find(|line| {
            line.contains(".toml:") && !line.starts_with("warning: ") && !line.starts_with("ok: ")
        });
        assert!(refused.is_none(), "{at}: the config is refused: {output}\n{merged}");
    }

    /// What the daemons printed.
    pub(super) fn log(&self) -> String {
        let files = fs::read_dir(self.folder.path().join("units")).into_iter().flatten().flatten();
        let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
        logs.map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
    }

    fn machine(&self, machine: Machine) -> (&Namespace, &str) {
        match machine {
            Machine::Server => (&self.lab.server, "server"),
            Machine::Client => (&self.lab.client, "client"),
        }
    }

    fn mounts(&self, machine: Machine) -> &Mounts {
        let [server, client] = &self.mounts;
        if machine == Machine::Server { server } else { client }
    }

    /// Where a file of the machine is outside of its mount namespace.
    fn place(&self, machine: Machine, path: &str) -> PathBuf {
        let path = match path.strip_prefix("~/") {
            Some(rest) => format!("/root/{rest}"),
            None if path.starts_with('/') => path.to_owned(),
            None => format!("/root/{path}"),
        };
        self.folder.path().join(self.machine(machine).1).join(path.trim_start_matches('/'))
    }
}

impl Drop for Hosts {
    /// Ends the daemons that the pages have started.
    fn drop(&mut self) {
        for file in fs::read_dir(self.folder.path().join("units")).into_iter().flatten().flatten() {
            let Ok(id) = fs::read_to_string(file.path()) else { continue };
            if file.path().extension().is_some_and(|extension| extension == "pid") {
                let _ = Command::new("kill").args(["-KILL", id.trim()]).stderr(Stdio::null()).status();
            }
        }
    }
}

/// A mount namespace with copies and empty folders in place of the machine's own.
fn own_folders(place: &Path, name: &str) -> Mounts {
    let mounts = Mounts::new();
    for (folder, mode) in [("root", 0o700), ("run", 0o755), ("var/lib", 0o755), ("var/log", 0o755)] {
        fs::create_dir_all(place.join(folder)).unwrap();
        fs::set_permissions(place.join(folder), PermissionsExt::from_mode(mode)).unwrap();
    }
    let copied = Command::new("cp").arg("-a").arg("/etc").arg(place.join("etc")).status().unwrap();
    assert!(copied.success(), "cp -a /etc");
    let server = if name == "server" { "127.0.0.1".to_owned() } else { SERVER4.to_string() };
    fs::write(place.join("etc/hosts"), format!("127.0.0.1 localhost\n{server} {NAMES}\n")).unwrap();
    for folder in ["etc", "root", "run", "var/lib", "var/log"] {
        mounts.run("mount", &["--bind", place.join(folder).to_str().unwrap(), &format!("/{folder}")]);
    }
    mounts
}

/// Sets what a fragment of TOML has in a config: sections are merged, keys replaced.
fn merge(config: &str, fragment: &str) -> String {
    let mut sections = sections(config);
    for (name, lines) in self::sections(fragment) {
        let Some((_, there)) = sections.iter_mut().find(|(section, _)| *section == name) else {
            sections.push((name, lines));
            continue;
        };
        let keys: Vec<String> = lines.iter().filter_map(|line| key(line)).collect();
        there.retain(|line| key(line).is_none_or(|key| !keys.contains(&key)));
        there.extend(lines);
    }
    sections.into_iter().map(|(name, lines)| format!("{name}\n{}\n", lines.join("\n"))).collect()
}

/// The lines of each section, by its header; those before the first have none.
fn sections(toml: &str) -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    for line in toml.lines() {
        if line.starts_with('[') && !line.starts_with("[[") {
            let header = line.split('#').next().unwrap().trim().to_owned();
            sections.push((header, Vec::new()));
        } else if let Some((_, lines)) = sections.last_mut() {
            lines.push(line.to_owned());
        }
    }
    sections
}

fn key(line: &str) -> Option<String> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    (!key.starts_with('#') && !key.is_empty()).then(|| key.to_owned())
}
