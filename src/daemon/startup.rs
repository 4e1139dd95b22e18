//! `spa-knockd run`: from a config file to a running daemon, one state after the other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::actions::{self, Deeds};
use super::audit::AuditLog;
use super::event_loop::Daemon;
use crate::auth::{Client, ClientRules, KeyAge, Part, Policy, ReplayMemory, WatchedKey};
use crate::config::client_keys::{LoadedClient, load_clients};
use crate::config::{self, Backend as BackendKind, CaptureKind, Interfaces, ServerConfig};
use crate::console::Failure;
use crate::crypto::KeySet;
use crate::firewall::{Backend, Background, Enforcing, Gate, Iptables, Mode, Nftables, NoFirewall};
use crate::gate::lock::lock_gate;
use crate::gate::state::Standing;
use crate::gate::{Gatehouse, Plan, boot, older, state as standing, takeover};
use crate::knock::Ports;
use crate::legacy::daemon::Written;
use crate::legacy::embedded::{self, PlainSequences};
use crate::os::files::{self, FileError};
use crate::os::host::{self, Link};
use crate::os::process::fds;
use crate::os::process::privileges::{self, Needs};
use crate::os::process::signals::Signals;
use crate::os::{clock, log as os_log};
use crate::state::revoked_keys::RevokedKeys;
use crate::state::{self, Left, State, Undoings};
use crate::supervisor::child::Post;
use crate::supervisor::watcher_supervisor::{Ears, Start};

/// Runs the daemon in the foreground until it is told to stop.
#[must_use]
pub(crate) fn run(path: &Path) -> ExitCode {
    fds::close_inherited();
    files::close_to_others();
    os_log::start("spa-knockd");
    // First of all: a SIGHUP while keys are loaded must not end us.
    let signals = Signals::listen().map_err(|error| Failure::run(format_args!("signals: {error}")));
    let started = signals.and_then(|signals| {
        Loaded::load(path)
            .inspect_err(|_| boot::close_despite_config(path))?
            .confine()?
            .lock()?
            .close_proven_gate()?
            .check_state()?
            .remember()?
            .listen()?
            .close_gate()
            .map(|gated| (gated, signals))
    });
    match started.map(|(gated, signals)| Daemon::start(gated, signals)) {
        Ok(daemon) => daemon.run(),
        Err(failure) => failure.exit(),
    }
}

/// A config whose every value and key has been checked.
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) config: ServerConfig,
    pub(crate) clients: Vec<LoadedClient>,
    /// The doors of `[legacy]`.
    pub(crate) legacy: Option<Written>,
    /// Keys of configured clients that are revoked; these clients are not among the others.
    pub(crate) revoked: RevokedKeys,
}

/// The state folder is ours, and so is the gate of this network namespace.
pub(crate) struct Locked {
    loaded: Loaded,
    locks: Vec<File>,
    /// Whether the state folder can be used.
    state: Result<(), FileError>,
    /// With the gate closed already, where the daemon has run before.
    gatehouse: Gatehouse,
}

/// What was accepted before is known, and what will be can be put on record.
pub(crate) struct Remembering {
    locked: Locked,
    state: State,
    memory: ReplayMemory,
    undoings: Undoings,
    left: Vec<Left>,
}

/// The port is bound and the watcher watches.
pub(crate) struct Listening {
    remembering: Remembering,
    ears: Ears,
    plain: PlainSequences,
}

/// Only a grant opens a protected port.
pub(crate) struct Gated {
    pub(crate) loaded: Loaded,
    pub(crate) locks: Vec<File>,
    pub(crate) ears: Ears,
    pub(crate) plain: PlainSequences,
    pub(crate) deeds: Deeds,
    pub(crate) audit: AuditLog,
    pub(crate) state: State,
    pub(crate) memory: ReplayMemory,
}

impl Loaded {
    /// Reads config and keys.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let config = config::load_trusted(path)?;
        let clients = load_clients(&config)?;
        let legacy = embedded::load(&config)?;
        let mut loaded =
            Self { path: path.to_owned(), config, clients, legacy, revoked: RevokedKeys::default() };
        // At a start what cannot be read is an error, once the gate is closed.
        loaded.keep_out(&RevokedKeys::read(&loaded.config.state_dir).unwrap_or_default());
        Ok(loaded)
    }

    /// Takes out the clients whose key is revoked, whatever the config names.
    pub(crate) fn keep_out(&mut self, revoked: &RevokedKeys) {
        let kept_out = revoked.still_configured(&self.clients);
        for name in kept_out.drop_from(&mut self.clients) {
            let place = self.config.places.of(&["client", &name]);
            log::warn!(
                "client {name}: its key is revoked, and it stays out\nhint: remove it at {place}, or give it another key: spa-knockd client rotate {name}"
            );
        }
        self.revoked.merge(kept_out);
    }

    /// Gives up what this config does not need, for as long as the process lives.
    fn confine(self) -> Result<Self, Failure> {
        let needs = match self.runs_commands() {
            true => Needs::Everything,
            false => Needs::Knocking { port: self.config.port },
        };
        if self.config.backend == BackendKind::Iptables {
            // The kernel's parts for it may have to be loaded, which takes more rights than are kept.
            Iptables::prime(&self.tables());
        }
        privileges::keep(needs).map_err(|error| Failure::run(format_args!("giving up rights: {error}")))?;
        os_log::start_thread();
        Ok(self)
    }

    /// The tables of iptables that this config needs.
    fn tables(&self) -> Vec<&'static str> {
        let mut parts = self.config.actions.values().flat_map(|action| &action.parts);
        let mut tables = vec!["filter"];
        let marks = matches!(self.config.mode, Mode::Mark(_));
        tables.extend((marks || !self.config.published.is_empty()).then_some("mangle"));
        tables.extend(parts.any(|part| matches!(part, Part::Forward { .. })).then_some("nat"));
        tables
    }

    /// Whether knocks can lead to commands of the admin's.
    pub(crate) fn runs_commands(&self) -> bool {
        let mut parts = self.config.actions.values().flat_map(|action| &action.parts);
        parts.any(|part| matches!(part, Part::Run { .. }))
            || self.legacy.as_ref().is_some_and(Written::runs_commands)
    }

    /// Takes state and gate. A state folder that cannot be used is an error that waits until the gate is closed.
    fn lock(self) -> Result<Locked, Failure> {
        let folder = &self.config.state_dir;
        let (mut locks, mut state) = (Vec::new(), Ok(()));
        match state::try_lock(folder) {
            Ok(lock) => locks.push(lock.ok_or_else(|| state::in_use(folder))?),
            Err(error) => {
                let hint = "mount and df show whether it is read-only or full";
                state = Err(FileError { hint: error.hint.or_else(|| Some(hint.to_owned())), ..error });
            }
        }
        if self.config.backend != BackendKind::None {
            locks.extend(lock_gate("one daemon serves all clients and ports; stop the other first")?);
        }
        // What cannot be looked into has been used before.
        let standing = Standing::read_trusted(folder).unwrap_or(Standing::On);
        let gatehouse = self.gatehouse(standing)?;
        Ok(Locked { loaded: self, locks, state, gatehouse })
    }

    /// What the watcher watches.
    pub(crate) fn post(&self) -> Result<Post, Failure> {
        Post::of(&self.config)
            .map_err(|error| Failure::run(format_args!("server.user: {}", files::plain(&error))))
    }

    /// The gatehouse of the backend that the config names.
    pub(crate) fn gatehouse(&self, standing: Standing) -> Result<Gatehouse, Failure> {
        let firewall: Box<dyn Backend> = match self.config.backend {
            BackendKind::Nftables => Box::new(Nftables::open().map_err(Failure::run)?),
            BackendKind::Iptables => Box::new(Background::new(self.iptables()?).map_err(Failure::run)?),
            BackendKind::None => Box::new(NoFirewall),
        };
        let mut gatehouse = Gatehouse::new(firewall, standing);
        gatehouse.set_confirmer(standing::confirmer(&self.config.state_dir));
        Ok(gatehouse)
    }

    fn iptables(&self) -> Result<Iptables, Failure> {
        let iptables = Iptables::open(&self.config.state_dir).map_err(Failure::run)?;
        let once = self.config.actions.iter().find(|(_, action)| action.opens_once());
        match once.filter(|_| !iptables.kernel_closes()) {
            Some((name, _)) => Err(Failure::run(format_args!(
                "action.{name}.once: needs ipset with backend \"iptables\"\nhint: apt install ipset"
            ))),
            None => Ok(iptables),
        }
    }

    /// The ports that only a grant opens, as they are told.
    pub(crate) fn doors(&self) -> String {
        let gated = self.config.gated();
        let doors = gated.iter().chain(&self.config.published).map(ToString::to_string);
        listed(&doors.collect::<Vec<_>>())
    }

    /// The keys of all clients, as the watcher gets them.
    pub(crate) fn watched_keys(&self) -> impl Iterator<Item = WatchedKey> {
        self.clients.iter().flat_map(|client| {
            let limit = client.rules.key_limit.unwrap_or(self.config.key_limit);
            client.key_sets().map(move |keys| WatchedKey::of(keys, limit))
        })
    }

    /// What the keeper decides by.
    pub(crate) fn policy(&self) -> Policy {
        let client = |loaded: &LoadedClient, keys: &KeySet, age, rules| Client {
            name: loaded.name.clone(),
            fingerprint: keys.fingerprint,
            keys: keys.keeper(),
            age,
            otp: loaded.otp.clone(),
            rules,
        };
        let with_all_keys = |loaded: &LoadedClient| {
            let rules = &loaded.rules;
            let previous = loaded.previous.as_ref().map(|(keys, until)| {
                let expires = rules.expires.map_or(*until, |expires| expires.min(*until));
                let rules = ClientRules { expires: Some(expires), ..rules.clone() };
                client(loaded, keys, KeyAge::Previous, rules)
            });
            let current = client(loaded, &loaded.keys, KeyAge::Current, rules.clone());
            std::iter::once(current).chain(previous).collect::<Vec<_>>()
        };
        Policy {
            window: self.config.window,
            reply: self.config.reply,
            band: self.config.ports,
            own_addresses: host::own_addresses(),
            actions: self.config.actions.clone(),
            clients: self.clients.iter().flat_map(with_all_keys).collect(),
        }
    }
}

/// Ports as they are told.
pub(crate) fn listed(ports: &[String]) -> String {
    if ports.is_empty() { "no port".to_owned() } else { ports.join(", ") }
}

impl Plan for Loaded {
    fn gate(&self, enforcing: Enforcing) -> Gate {
        let config = &self.config;
        let silent_port = (config.capture == CaptureKind::Pcap).then_some(config.port);
        let early = match &config.interfaces {
            // What is passed on between networks comes by here too, and may use this port number.
            // One that is not there yet would cost the others their early drop.
            Interfaces::Named(names) if silent_port.is_some() && !host::forwards() => {
                names.iter().filter(|name| host::link(name) != Link::Missing).cloned().collect()
            }
            _ => Vec::new(),
        };
        let gated = config.gated();
        let is_gated = |door| gated.iter().chain(&config.published).any(|ports: &Ports| ports.contain(door));
        let older = older(is_gated);
        Gate {
            protect: gated,
            published: config.published.clone(),
            mode: config.mode,
            enforcing,
            failsafe: config.failsafe.clone(),
            silent_port,
            early,
            older,
        }
    }

    fn backend(&self) -> BackendKind {
        self.config.backend
    }

    fn state_dir(&self) -> &Path {
        &self.config.state_dir
    }

    fn mode(&self) -> Mode {
        self.config.mode
    }
}

impl Locked {
    /// Where the daemon has run before, the gate closes before anything that can fail: a boot at which an
    /// interface is missing leaves no port open.
    fn close_proven_gate(mut self) -> Result<Self, Failure> {
        if self.gatehouse.standing() != Standing::Never {
            self.gatehouse.load(&self.loaded).map_err(Failure::run)?;
        }
        Ok(self)
    }

    /// What is in the state folder decides what runs, and whether the gate is closed: nothing of it is read unless only
    /// we can have written it.
    fn check_state(mut self) -> Result<Self, Failure> {
        let trusted = files::check_private_tree(&self.loaded.config.state_dir);
        trusted.and(std::mem::replace(&mut self.state, Ok(())))?;
        Ok(self)
    }

    fn remember(self) -> Result<Remembering, Failure> {
        RevokedKeys::read(&self.loaded.config.state_dir)?;
        let (state, memory) = state::open(&self.loaded.config).map_err(Failure::run)?;
        let (undoings, left) = state::open_undoings(&self.loaded.config).map_err(Failure::run)?;
        Ok(Remembering { locked: self, state, memory, undoings, left })
    }
}

impl Remembering {
    fn listen(self) -> Result<Listening, Failure> {
        let start = match self.locked.gatehouse.standing() {
            Standing::Never => Start::First,
            Standing::On | Standing::Off | Standing::Trial(_) => Start::Later,
        };
        let ears = Ears::open(&self.locked.loaded, start)?;
        let plain = PlainSequences::start(&self.locked.loaded, start)?;
        Ok(Listening { remembering: self, ears, plain })
    }
}

impl Listening {
    /// At the first start last, so that nobody is shut out by a daemon that could not have let him in.
    fn close_gate(self) -> Result<Gated, Failure> {
        let Remembering {
            locked: Locked { loaded, locks, mut gatehouse, .. },
            state,
            memory,
            undoings,
            left,
        } = self.remembering;
        let (ears, plain) = (self.ears, self.plain);
        let mut audit = AuditLog::open(&loaded.config);
        for record in actions::tell_left(left) {
            audit.write(&record, clock::wall());
        }
        if gatehouse.standing() == Standing::Never {
            gatehouse.change(Standing::On, &loaded).map_err(Failure::run)?;
        }
        let removed = match gatehouse.standing() {
            Standing::Off if loaded.config.backend != BackendKind::None => takeover::remove_all_gates(),
            _ => takeover::remove_other_gates(loaded.config.backend),
        };
        removed.iter().for_each(|message| log::warn!("{message}"));
        let mut deeds = Deeds::new(gatehouse, undoings)
            .map_err(|error| Failure::run(format_args!("no thread: {}", files::plain(&error))))?;
        for record in deeds.confirm_undoings(&loaded) {
            audit.write(&record, clock::wall());
        }
        Ok(Gated { loaded, locks, ears, plain, deeds, audit, state, memory })
    }
}
