//! `spa-knockd run`: from a config file to a running daemon, one state after the other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::audit::AuditLog;
use super::console::Failure;
use super::daemon::Daemon;
use super::keys::{LoadedClient, load_clients};
use super::watcher_process::{Post, WatcherProcess};
use crate::config::{self, Backend as BackendKind, CaptureKind, Interfaces, ServerConfig};
use crate::firewall::{Backend, FirewallError, Gate, Nftables, NoFirewall};
use crate::gate::{Client, Policy};
use crate::os::files::{self, Mode};
use crate::os::udp::{Incoming, UdpPort};
use crate::os::{connections, host, log as os_log};

/// Runs the daemon in the foreground until it is told to stop.
#[must_use]
pub(super) fn run(path: &Path) -> ExitCode {
    os_log::start("spa-knockd");
    let started = Loaded::load(path)
        .and_then(Loaded::lock)
        .and_then(Locked::close_proven_gate)
        .and_then(Locked::listen)
        .and_then(Listening::close_gate)
        .and_then(Daemon::start);
    match started {
        Ok(daemon) => daemon.run(),
        Err(failure) => failure.exit(),
    }
}

/// A config whose every value and key has been checked.
pub(super) struct Loaded {
    pub(super) path: PathBuf,
    pub(super) config: ServerConfig,
    pub(super) clients: Vec<LoadedClient>,
}

/// The state folder is ours.
pub(super) struct Locked {
    loaded: Loaded,
    lock: File,
}

/// The port is bound and the watcher watches.
pub(super) struct Listening {
    pub(super) loaded: Loaded,
    pub(super) lock: File,
    pub(super) ears: Ears,
}

/// What knocks are heard with.
pub(super) struct Ears {
    pub(super) post: Post,
    pub(super) socket: UdpPort,
    pub(super) watcher: WatcherProcess,
}

/// Only a grant opens a protected port.
pub(super) struct Gated {
    pub(super) loaded: Loaded,
    pub(super) lock: File,
    pub(super) ears: Ears,
    pub(super) firewall: Box<dyn Backend>,
    pub(super) audit: AuditLog,
}

impl Loaded {
    /// Reads config and keys.
    pub(super) fn load(path: &Path) -> Result<Self, Failure> {
        let config = config::load(path)?;
        let clients = load_clients(&config)?;
        Ok(Self { path: path.to_owned(), config, clients })
    }

    fn lock(self) -> Result<Locked, Failure> {
        let folder = &self.config.state_dir;
        files::create_folder(folder, Mode::Private)?;
        match files::lock(&folder.join("lock"))? {
            Some(lock) => Ok(Locked { loaded: self, lock }),
            None => Err(Failure::run(format!(
                "state folder {}: another spa-knockd uses it\nhint: stop that one, or give this one its own state_dir",
                folder.display()
            ))),
        }
    }

    /// Binds the port and starts a watcher.
    pub(super) fn open_ears(&self) -> Result<Ears, Failure> {
        let incoming = match self.config.capture {
            CaptureKind::Pcap => Incoming::Unread,
            CaptureKind::Udp => Incoming::Received,
        };
        let port = self.config.port;
        let socket = UdpPort::bind(port, incoming).map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!(
                        "\nhint: 'ss -ulnp sport = :{port}' shows who has it; server.port sets another one"
                    )
                }
                _ => String::new(),
            };
            Failure::run(format!("UDP port {port}: {}{hint}", files::plain(&error)))
        })?;
        let post = self.post()?;
        let keys = self.clients.iter().map(|client| &client.keys);
        let watcher =
            WatcherProcess::start(&post, self.config.window, &socket, keys).map_err(Failure::run)?;
        Ok(Ears { post, socket, watcher })
    }

    /// What the watcher watches.
    pub(super) fn post(&self) -> Result<Post, Failure> {
        Post::of(&self.config)
            .map_err(|error| Failure::run(format_args!("server.user: {}", files::plain(&error))))
    }

    /// The backend that the config names.
    pub(super) fn open_firewall(&self) -> Result<Box<dyn Backend>, FirewallError> {
        Ok(match self.config.backend {
            BackendKind::Nftables => Box::new(Nftables::open()?),
            BackendKind::None => Box::new(NoFirewall),
        })
    }

    /// What the gate consists of, with the connections that there are now.
    pub(super) fn gate(&self) -> Gate {
        let config = &self.config;
        let silent_port = (config.capture == CaptureKind::Pcap).then_some(config.port);
        let early = match &config.interfaces {
            // What is passed on between networks comes by here too, and may use this port number.
            Interfaces::Named(names) if silent_port.is_some() && !host::forwards() => names.clone(),
            _ => Vec::new(),
        };
        let older = connections::established().unwrap_or_else(|error| {
            log::warn!("{error}: connections older than the gate may hang");
            Vec::new()
        });
        let protected = |port| config.protect.iter().any(|door| door.port() == port);
        let older = older.into_iter().filter(|c| !c.local.ip().is_loopback() && protected(c.local.port()));
        Gate { protect: config.protect.clone(), silent_port, early, older: older.collect() }
    }

    /// The file that says that this config has worked once, and the gate is to be closed from the start.
    fn proof(&self) -> PathBuf {
        self.config.state_dir.join("gate")
    }

    /// What the keeper decides by.
    pub(super) fn policy(&self) -> Policy {
        let client = |loaded: &LoadedClient| Client {
            name: loaded.name.clone(),
            fingerprint: loaded.keys.fingerprint,
            keys: loaded.keys.keeper(),
            rules: loaded.rules.clone(),
        };
        Policy {
            window: self.config.window,
            reply: self.config.reply,
            actions: self.config.actions.clone(),
            clients: self.clients.iter().map(client).collect(),
        }
    }
}

impl Locked {
    /// Where the daemon has run before, the gate closes before anything that can fail: a boot at which an
    /// interface is missing leaves no port open.
    fn close_proven_gate(self) -> Result<Self, Failure> {
        if files::exists(&self.loaded.proof()) {
            self.loaded
                .open_firewall()
                .and_then(|mut f| f.load(&self.loaded.gate()))
                .map_err(Failure::run)?;
        }
        Ok(self)
    }

    fn listen(self) -> Result<Listening, Failure> {
        let ears = self.loaded.open_ears()?;
        Ok(Listening { loaded: self.loaded, lock: self.lock, ears })
    }
}

impl Listening {
    /// At the first start last, so that nobody is shut out by a daemon that could not have let him in.
    fn close_gate(self) -> Result<Gated, Failure> {
        let audit = AuditLog::open(&self.loaded.config.audit)?;
        let mut firewall = self.loaded.open_firewall().map_err(Failure::run)?;
        firewall.load(&self.loaded.gate()).map_err(Failure::run)?;
        files::replace(&self.loaded.proof(), Mode::Private, b"on\n")?;
        Ok(Gated { loaded: self.loaded, lock: self.lock, ears: self.ears, firewall, audit })
    }
}
