//! A server's config and keys in a temporary folder, and what a client needs to knock at this server.

use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, thread};

use serde_json::Value;
use spa_knock_core::crypto::{ClientKeys, KeyFile, KeyOwner, PairSecret, Secret};
use spa_knock_core::knock::{
    AddressPolicy, Argument, Knock, KnockRange, Reply, ReplyWanted, SLICES, ServerId, TimeStep, Timestamp,
};
use spa_knock_core::wire::{Datagram, Hint, hint, open_reply, proof, selector, sequence};
use tempfile::TempDir;

use super::{Daemon, limited};

/// The server id in every test.
pub(crate) const SERVER_ID: &str = "bastion.test";

/// Lines for `[server]` that allow a client as many knocks and grants as a test needs.
pub(crate) const NO_LIMITS: &str = "per-key-limit = { burst = 100000, rate = \"10000/s\" }\ngrants = 32768\n";

/// Config in which port 22 is protected and `laptop` is allowed to open it for this number of seconds.
pub(crate) fn open_ssh(seconds: u32) -> String {
    format!(
        r#"
[firewall]
protect = ["tcp/22"]

[action.open-ssh]
open = ["tcp/22"]
for = "{seconds}s"
max = "1m"

[client.laptop]
key = "laptop.key"
allow = ["open-ssh"]
"#
    )
}

/// A temporary folder with the config file, the keys and everything that the daemon writes.
pub(crate) struct Site(TempDir);

impl Site {
    /// Creates a site with a key for `laptop`. `server` is added to the section `[server]`, `rest` is put after it.
    pub(crate) fn new(server: &str, rest: &str) -> Self {
        let site = Self(tempfile::Builder::new().prefix("spa-knock-").tempdir().unwrap());
        for folder in ["keys", "state"] {
            fs::DirBuilder::new().mode(0o700).create(site.path(folder)).unwrap();
        }
        site.write_config(server, rest);
        site.add_key("laptop");
        site
    }

    /// Path of a file or folder of the site.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Path of the site's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Replaces the config.
    pub(crate) fn write_config(&self, server: &str, rest: &str) {
        let folder = self.folder().display();
        let text = format!(
            r#"[server]
id = "{SERVER_ID}"
state_dir = "{folder}/state"
keys_dir = "{folder}/keys"
control = "{folder}/control.sock"
user = "nobody"
audit = "{folder}/audit.jsonl"
{server}
{rest}"#
        );
        fs::write(self.path("spa-knockd.toml"), text).unwrap();
    }

    /// Creates a key file for this server, which the server and the client can both read.
    pub(crate) fn add_key(&self, name: &str) -> Key {
        let key = KeyFile {
            client: Some(name.parse().unwrap()),
            holder: KeyOwner::Pair {
                server: SERVER_ID.parse().unwrap(),
                secret: PairSecret::new(Secret::generate().unwrap()),
            },
            address: None,
            port: None,
            ssh_key: None,
        };
        let path = self.key_path(name);
        fs::write(&path, key.to_text().as_bytes()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        self.key(name)
    }

    /// The keys of a client that has a key file.
    pub(crate) fn key(&self, name: &str) -> Key {
        Key::read(&self.key_path(name), SERVER_ID)
    }

    /// Path of a client's key file.
    pub(crate) fn key_path(&self, name: &str) -> PathBuf {
        self.path("keys").join(format!("{name}.key"))
    }

    /// `spa-knock` with `laptop`'s key, the server's address and these arguments.
    pub(crate) fn knock(&self, server: IpAddr, args: &[&str]) -> Command {
        let mut command = self.client();
        command.arg("--key").arg(self.key_path("laptop")).arg(server.to_string()).args(args);
        command
    }

    /// `spa-knock` without arguments, with the site's folder as its home folder.
    pub(crate) fn client(&self) -> Command {
        let mut command = limited(env!("CARGO_BIN_EXE_spa-knock"));
        command.env_remove("SPA_KNOCK_KEY").env("HOME", self.folder());
        for (name, folder) in [("XDG_CONFIG_HOME", "config"), ("XDG_STATE_HOME", "client-state")] {
            command.env(name, self.path(folder));
        }
        command
    }

    /// `spa-knockd` with these arguments and this config.
    pub(crate) fn admin(&self, args: &[&str]) -> Command {
        let mut command = limited(Daemon::PROGRAM);
        command.args(args).arg("-c").arg(self.path("spa-knockd.toml"));
        command
    }

    /// The audit log so far; every line of it must be a JSON object.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let read = || fs::read_to_string(self.path("audit.jsonl")).unwrap_or_default();
        // A record is written after the reply has been sent, so wait until no more records are added.
        let mut text = read();
        loop {
            thread::sleep(Duration::from_millis(100));
            let later = read();
            if later == text {
                break;
            }
            text = later;
        }
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The audit records of one event.
    pub(crate) fn audit_of(&self, event: &str) -> Vec<Value> {
        self.audit().into_iter().filter(|record| record["event"] == event).collect()
    }
}

/// A client's keys, for knocks that the client program would never send.
pub(crate) struct Key(ClientKeys);

impl Key {
    /// Derives the keys for `server` from the secret in a key file.
    pub(crate) fn read(path: &Path, server: &str) -> Self {
        let Ok(file) = KeyFile::parse(&fs::read_to_string(path).unwrap()) else { panic!("{path:?}") };
        let KeyOwner::Pair { secret, .. } = file.holder else { panic!("{path:?} holds no pair secret") };
        Self::new(&secret, server)
    }

    /// Derives the keys for `server` from a pair secret.
    pub(crate) fn new(secret: &PairSecret, server: &str) -> Self {
        let server: ServerId = server.parse().unwrap();
        Self(secret.keys(&server).client())
    }

    /// Encrypts and signs a knock.
    pub(crate) fn seal(&self, knock: &Knock) -> Datagram {
        Datagram::seal(knock, &self.0).unwrap()
    }

    /// The bytes of a valid knock: `open-ssh`, now, for its source address.
    pub(crate) fn good(&self) -> Vec<u8> {
        self.seal(&knock("open-ssh")).as_bytes().to_vec()
    }

    /// The hint of its knocks in an epoch.
    pub(crate) fn hint(&self, epoch: u64) -> Hint {
        hint(&self.0.hint, epoch)
    }

    /// A datagram with a correct tag whose encrypted part is invalid; only a client can create it.
    pub(crate) fn signed_garbage(&self) -> Vec<u8> {
        let mut bytes = self.good();
        let signed = bytes.len() - 32;
        bytes[30] ^= 1;
        let tag = self.0.sign.tag(&[&bytes[..signed]]);
        bytes[signed..].copy_from_slice(&tag);
        bytes
    }

    /// The eight ports of `open-ssh` in a time step, for an address or for any address.
    pub(crate) fn ports(&self, step: TimeStep, address: Option<IpAddr>) -> [u16; SLICES] {
        let keys = self.0.ports.as_ref().expect("only version 1 has port sequences");
        let proof = proof(&keys.proof, step, address, &"open-ssh".parse().unwrap(), KnockRange::USUAL);
        sequence(selector(&keys.selector, step, KnockRange::USUAL), &proof)
    }

    /// Decrypts the server's reply to a knock.
    pub(crate) fn open(&self, reply: &[u8], knock: &Datagram) -> Reply {
        self.try_open(reply, knock).expect("a reply to this knock")
    }

    /// The same, if it is a reply to this knock.
    pub(crate) fn try_open(&self, reply: &[u8], knock: &Datagram) -> Option<Reply> {
        open_reply(reply, &self.0.reply, knock.nonce()).ok()
    }
}

/// A knock for its source address, with the current time, that requests a reply.
pub(crate) fn knock(action: &str) -> Knock {
    Knock {
        timestamp: Timestamp::default().plus(since_epoch()),
        reply: ReplyWanted::Yes,
        seconds: 0,
        otp: None,
        policy: AddressPolicy::Observed,
        ipv4: None,
        ipv6: None,
        action: action.parse().unwrap(),
        argument: Argument::none(),
    }
}

/// The current time step.
pub(crate) fn step() -> TimeStep {
    TimeStep::of(Timestamp::default().plus(since_epoch()))
}

/// Waits for the next time step if less than `seconds` of the current one are left.
pub(crate) fn await_time_step(seconds: u64) {
    let now = Timestamp::default().plus(since_epoch());
    let left = step().after().begin().distance(now);
    if left < Duration::from_secs(seconds) {
        thread::sleep(left);
    }
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}
