//! Other agents than OpenSSH's own keys: gpg-agent, and a key in a (software) TPM through PKCS #11.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::net::{Daemon, Lab, SERVER4, Site, SshAgent, limited, open_ssh, within};

/// A process that is killed when dropped.
struct Killed(Child);

impl Killed {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scratch() -> TempDir {
    // Short: the path of a socket has at most 107 bytes.
    tempfile::Builder::new().prefix("sk-").tempdir().unwrap()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Knocks with the first key of the agent at `socket`, and reaches the port.
fn knock_with(lab: &Lab, socket: &Path) {
    let site = Site::new("", &open_ssh(2));
    let keys = output(limited("ssh-add").arg("-L").env("SSH_AUTH_SOCK", socket));
    let public = site.path("id.pub");
    fs::write(&public, keys.lines().next().unwrap()).unwrap();
    let key = site.sign_with("", &open_ssh(2), &public);
    lab.server.echo(22);
    let _daemon = Daemon::start(&lab.server, &site);
    let mut command = site.client();
    command.arg("--key").arg(key).arg(SERVER4.to_string()).arg("open-ssh").env("SSH_AUTH_SOCK", socket);
    let knocked = lab.client.output(&mut command);
    assert!(knocked.status.success(), "{}", String::from_utf8_lossy(&knocked.stderr));
    assert!(lab.client.reaches(SERVER4, 22));
}

#[test]
fn gpg_agent_signs_knocks() {
    let Some(lab) = Lab::new() else { return };
    let folder = scratch();
    let home = folder.path().join("gpg");
    fs::DirBuilder::new().mode(0o700).create(&home).unwrap();
    let gpg = |args: &[&str]| output(limited("gpg").arg("--homedir").arg(&home).args(args));
    gpg(&["--batch", "--passphrase", "", "--quick-gen-key", "knock", "ed25519", "auth"]);
    let listed = gpg(&["--list-keys", "--with-colons", "--with-keygrip"]);
    let grip = listed.lines().find_map(|line| line.strip_prefix("grp:")).unwrap().trim_matches(':');
    fs::write(home.join("sshcontrol"), format!("{grip}\n")).unwrap();
    // That of the commands above does not read it.
    output(limited("gpgconf").arg("--homedir").arg(&home).args(["--kill", "gpg-agent"]));
    let mut agent = Command::new("gpg-agent");
    agent.arg("--homedir").arg(&home).args(["--enable-ssh-support", "--daemon", "--", "sleep", "60"]);
    let _agent = Killed::start(&mut agent);
    let socket = home.join("S.gpg-agent.ssh");
    assert!(within(Duration::from_secs(20), || socket.exists()));
    knock_with(&lab, &socket);
    output(limited("gpgconf").arg("--homedir").arg(&home).args(["--kill", "gpg-agent"]));
}

/// The module that gives ssh-agent the keys of a TPM.
fn module() -> PathBuf {
    PathBuf::from(format!("/usr/lib/{}-linux-gnu/pkcs11/libtpm2_pkcs11.so", std::env::consts::ARCH))
}

/// A software TPM, and what shares it between programs, on a bus of their own.
struct Tpm {
    folder: TempDir,
    bus: String,
    _processes: Vec<Killed>,
}

impl Tpm {
    fn new() -> Self {
        let folder = scratch();
        let path = |name: &str| folder.path().join(name);
        for name in ["tpm", "store"] {
            fs::create_dir(path(name)).unwrap();
        }
        let mut tpm = Command::new("swtpm");
        tpm.args(["socket", "--tpm2", "--flags", "startup-clear"]);
        for (option, value) in [
            ("--tpmstate", format!("dir={}", path("tpm").display())),
            ("--server", format!("type=unixio,path={}", path("tpm.sock").display())),
            ("--ctrl", format!("type=unixio,path={}", path("tpm.sock.ctrl").display())),
        ] {
            tpm.arg(option).arg(value);
        }
        let mut processes = vec![Killed::start(&mut tpm)];
        assert!(within(Duration::from_secs(20), || path("tpm.sock.ctrl").exists()));
        let bus = format!("unix:path={}", path("bus").display());
        let mut daemon = Command::new("dbus-daemon");
        processes.push(Killed::start(daemon.args(["--session", "--nofork", "--address"]).arg(&bus)));
        assert!(within(Duration::from_secs(20), || path("bus").exists()));
        let mut broker = Command::new("tpm2-abrmd");
        broker.args(["--session", "--allow-root"]).env("DBUS_SESSION_BUS_ADDRESS", &bus);
        broker.arg(format!("--tcti=swtpm:path={}", path("tpm.sock").display()));
        processes.push(Killed::start(&mut broker));
        Self { folder, bus, _processes: processes }
    }

    /// Where programs find the TPM and its keys.
    fn variables(&self) -> [(&'static str, String); 4] {
        let broker = "tabrmd:bus_type=session".to_owned();
        [
            ("DBUS_SESSION_BUS_ADDRESS", self.bus.clone()),
            ("TPM2_PKCS11_STORE", self.folder.path().join("store").display().to_string()),
            ("TPM2_PKCS11_TCTI", broker.clone()),
            ("TPM2TOOLS_TCTI", broker),
        ]
    }

    fn tool(&self, args: &[&str]) -> Command {
        let mut command = limited("tpm2_ptool");
        command.args(args).arg("--path").arg(self.folder.path().join("store")).envs(self.variables());
        command
    }
}

#[test]
fn a_key_in_a_tpm_signs_knocks() {
    let Some(lab) = Lab::new() else { return };
    let tpm = Tpm::new();
    // The broker needs a moment.
    assert!(within(Duration::from_secs(20), || tpm.tool(&["init"]).output().unwrap().status.success()));
    output(&mut tpm.tool(&["addtoken", "--pid=1", "--label=knock", "--sopin=so", "--userpin=1234"]));
    output(&mut tpm.tool(&["addkey", "--label=knock", "--userpin=1234", "--algorithm=ecc256"]));
    let agent = SshAgent::with_variables(&tpm.variables());
    let pin = agent.path("pin");
    fs::write(&pin, "#!/bin/sh\necho 1234\n").unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o700)).unwrap();
    let mut add = agent.command("ssh-add");
    add.arg("-s").arg(module()).env("SSH_ASKPASS", &pin).env("SSH_ASKPASS_REQUIRE", "force");
    output(&mut add);
    knock_with(&lab, &agent.socket());
}
