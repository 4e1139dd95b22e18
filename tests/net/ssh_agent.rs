//! ssh-agents with keys of a test, and a site whose client needs a signature by one of them.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use spa_knock_core::crypto::KeyFile;
use spa_knock_core::crypto::ssh::PublicKey;
use tempfile::TempDir;

use super::{Site, limited, within};

/// OpenSSH's software authenticator, of the package openssh-tests.
const AUTHENTICATOR: &str = "/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so";

/// An ssh-agent, killed when dropped, and a folder for keys.
pub(crate) struct SshAgent {
    process: Child,
    folder: TempDir,
}

impl SshAgent {
    /// Starts an agent without keys.
    pub(crate) fn new() -> Self {
        Self::with_variables(&[])
    }

    /// Starts an agent without keys in this environment.
    pub(crate) fn with_variables(variables: &[(&str, String)]) -> Self {
        let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(folder.path().join("socket"));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("ssh-agent");
        let agent = Self { process, folder };
        assert!(within(Duration::from_secs(20), || UnixStream::connect(agent.socket()).is_ok()));
        agent
    }

    /// Starts an agent with a key of this type, and returns the path of its public key.
    pub(crate) fn with_key(kind: &str) -> (Self, PathBuf) {
        let agent = Self::new();
        let public = agent.generate("id", kind);
        agent.add("id", &[]);
        (agent, public)
    }

    /// The path of a file in the agent's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// The number of the agent's process.
    pub(crate) fn id(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.process.id().try_into().unwrap())
    }

    /// Makes a key of this type, and returns the path of its public key.
    pub(crate) fn generate(&self, name: &str, kind: &str) -> PathBuf {
        let mut command = self.command("ssh-keygen");
        let output = command.args(["-q", "-t", kind, "-N", "", "-f"]).arg(self.path(name)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.path(&format!("{name}.pub"))
    }

    /// Adds a key to the agent.
    pub(crate) fn add(&self, name: &str, options: &[&str]) {
        let output = self.ssh_add(options, &self.path(name));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs ssh-add with these options.
    pub(crate) fn ssh_add(&self, options: &[&str], last: &Path) -> Output {
        self.command("ssh-add").arg("-q").args(options).arg(last).output().unwrap()
    }

    /// A program that uses the agent.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = limited(program);
        command.env("SSH_AUTH_SOCK", self.socket()).env("SSH_SK_PROVIDER", AUTHENTICATOR);
        command
    }
}

impl Drop for SshAgent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Passes requests on to an agent, and counts those for signatures.
pub(crate) struct SigningCounter {
    folder: TempDir,
    signatures: Arc<AtomicUsize>,
}

impl SigningCounter {
    /// A socket in front of the agent's.
    pub(crate) fn of(agent: &SshAgent) -> Self {
        let folder = tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let signatures = Arc::new(AtomicUsize::new(0));
        let (count, to) = (Arc::clone(&signatures), agent.socket());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut client, count) = (stream.unwrap(), Arc::clone(&count));
                let mut agent = UnixStream::connect(&to).unwrap();
                thread::spawn(move || {
                    while let Some(request) = message(&mut client) {
                        if request.get(4) == Some(&13) {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                        agent.write_all(&request).unwrap();
                        let Some(answer) = message(&mut agent) else { return };
                        let _ = client.write_all(&answer);
                    }
                });
            }
        });
        Self { folder, signatures }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// The number of requested signatures since the last call.
    pub(crate) fn take(&self) -> usize {
        self.signatures.swap(0, Ordering::Relaxed)
    }
}

/// The next message with its length; none at the end.
fn message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut content = vec![0; u32::from_be_bytes(length).try_into().unwrap()];
    stream.read_exact(&mut content).ok()?;
    Some([length.as_slice(), &content].concat())
}

/// The public key in a file.
pub(crate) fn public_key(path: &Path) -> PublicKey {
    fs::read_to_string(path).unwrap().parse().unwrap()
}

impl Site {
    /// Sets the SSH key of the client `laptop`: in a config that has the client as its last section, and in a key file
    /// for the client, whose path is returned.
    pub(crate) fn sign_with(&self, server: &str, rest: &str, public: &Path) -> PathBuf {
        let key = public_key(public);
        self.write_config(server, &format!("{rest}public_key = \"{key}\"\n"));
        self.key_file_for(&key)
    }

    /// A key file for the client `laptop` that names this SSH key.
    pub(crate) fn key_file_for(&self, key: &PublicKey) -> PathBuf {
        let Ok(mut file) = KeyFile::parse(&fs::read_to_string(self.key_path("laptop")).unwrap()) else {
            panic!("no key file")
        };
        file.ssh_key = Some(key.fingerprint());
        let path = self.path("signed.key");
        fs::write(&path, file.to_text().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}
