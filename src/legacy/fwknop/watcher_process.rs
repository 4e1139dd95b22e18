//! Handle to the fwknop watcher process: sends it the HMAC keys, and receives its reports.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zeroize::Zeroizing;

use super::ipc::{PacketSources, ToFwknopWatcher};
use super::settings::LoadedStanza;
use crate::capture::CapturedPorts;
use crate::ipc::{Bytes, MESSAGE, OnMissingInterface};
use crate::supervisor::child::{CaptureConfig, Disconnected, WatcherChild};
use crate::supervisor::program::Program;
use spa_knock_fwknop::{PacketPorts, RequestRules, ServerSettings};

/// The settings of a watcher, without keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FwknopWatchConfig {
    /// Where packets come from.
    pub(super) sources: PacketSources,
    /// The interfaces, and the user that the watcher runs as.
    pub(super) capture: CaptureConfig,
}

/// A running watcher. Dropping it ends the process.
pub(super) struct FwknopWatcher(WatcherChild);

impl FwknopWatchConfig {
    /// The settings that `fwknopd.conf` asks for. `capture` is how packets are received.
    pub(crate) fn new(server: &ServerSettings, capture: CaptureConfig) -> Self {
        let PacketPorts { udp, tcp } = server.ports.clone();
        // Both may ask for TCP ports; a range that covers both passes more, which HMACs then reject.
        let listened = server.tcp_server.map(|port| port..=port);
        let tcp = match (tcp.filter(|_| server.http || server.tcp_server.is_some()), listened) {
            (Some(a), Some(b)) => Some(*a.start().min(b.start())..=*a.end().max(b.end())),
            (a, b) => a.or(b),
        };
        let sources = PacketSources {
            socket: !capture.captures,
            segments: server.tcp_server.is_some(),
            ports: CapturedPorts { udp, tcp: tcp.filter(|_| capture.captures), http: server.http },
            rules: RequestRules {
                any_user_agent: server.any_user_agent,
                forwarded_for: server.forwarded_for,
            },
        };
        Self { sources, capture }
    }
}

impl FwknopWatcher {
    /// Starts a watcher and waits until it watches.
    ///
    /// # Errors
    /// A human-readable reason why it does not.
    pub(super) fn start(
        program: &Program,
        config: &FwknopWatchConfig,
        missing: OnMissingInterface,
        socket: Option<OwnedFd>,
        stanzas: &[LoadedStanza],
    ) -> Result<Self, String> {
        WatcherChild::start(program, &config.capture, missing, socket, messages(config, stanzas)).map(Self)
    }

    /// Replaces the keys.
    ///
    /// # Errors
    /// If the watcher has exited, or does not read.
    pub(super) fn replace_keys(
        &self,
        config: &FwknopWatchConfig,
        stanzas: &[LoadedStanza],
    ) -> std::io::Result<()> {
        self.0.configure(&config.capture, OnMissingInterface::Continue, messages(config, stanzas))
    }

    /// Receives one report, if there is one; returns its length.
    ///
    /// # Errors
    /// If the watcher has exited.
    pub(super) fn try_recv(&mut self, buffer: &mut [u8; MESSAGE]) -> Result<Option<usize>, Disconnected> {
        self.0.try_recv(buffer)
    }

    /// The process.
    pub(super) const fn child(&self) -> &WatcherChild {
        &self.0
    }

    /// The process, to kill it.
    pub(super) const fn child_mut(&mut self) -> &mut WatcherChild {
        &mut self.0
    }
}

fn messages(config: &FwknopWatchConfig, stanzas: &[LoadedStanza]) -> impl Iterator<Item = Bytes> {
    let key = |loaded: &LoadedStanza| {
        let key = &loaded.stanza.hmac_key;
        ToFwknopWatcher::Key(key.digest(), Zeroizing::new(key.as_bytes().to_vec())).to_bytes()
    };
    // Stanzas with the same keys need only one hash.
    let mut keys: Vec<Bytes> = Vec::new();
    for message in stanzas.iter().map(key) {
        if !keys.contains(&message) {
            keys.push(message);
        }
    }
    std::iter::once(ToFwknopWatcher::Sources(config.sources.clone()).to_bytes()).chain(keys)
}

impl AsFd for FwknopWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
