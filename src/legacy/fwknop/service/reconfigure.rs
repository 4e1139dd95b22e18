//! Replaces the stanzas: first everything that can fail, then the change.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::{ActiveStanzas, FwknopService};
use crate::console::AdminError;
use crate::ipc::OnMissingInterface;
use crate::legacy::fwknop::settings::{FwknopConfig, LoadedStanza};
use crate::legacy::fwknop::tcp_port::AcceptingPort;
use crate::legacy::fwknop::verifier::Verifier;
use crate::legacy::fwknop::watcher_process::{FwknopWatchConfig, FwknopWatcher};
use crate::os::files;
use crate::os::net::udp::{ReceiveMode, UdpPort};
use crate::state::{self, ReplayFolder};
use crate::supervisor::restart::Restart;
use spa_knock_core::auth::ReplayMemory;

/// A new config, and what it needs that can fail.
pub(crate) struct NextStanzas {
    config: Rc<FwknopConfig>,
    watch_config: FwknopWatchConfig,
    /// None if the present one continues with new keys.
    watcher: Option<FwknopWatcher>,
    /// None if the present one is kept.
    sockets: Option<(Option<UdpPort>, Option<(u16, AcceptingPort)>)>,
    /// None if the present one is kept.
    state: Option<(ReplayFolder, ReplayMemory)>,
}

impl FwknopService {
    /// Prepares a config: everything that can fail happens here, and nothing changes.
    ///
    /// # Errors
    /// If its watcher does not start, a port is in use, or the state cannot be read.
    pub(crate) fn prepare(
        &self,
        config: Rc<FwknopConfig>,
        watch_config: FwknopWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<NextStanzas, AdminError> {
        let state = match &self.active {
            Some(_) => None,
            None => {
                Some(state::open_in(&self.folder, config.window(), config.ahead()).map_err(AdminError::run)?)
            }
        };
        let tcp = config.server.tcp_server;
        let present = self.active.as_ref();
        let same = present.is_some_and(|active| active.watch_config == watch_config);
        let same_tcp = present.is_some_and(|active| active.tcp_port.as_ref().map(|(port, _)| *port) == tcp);
        let sockets = match same && same_tcp {
            true => None,
            false => Some(self.bind(&watch_config, tcp)?),
        };
        let watcher = if same && self.watcher.is_some() {
            None
        } else if watch_config.capture.misses_everything() && missing == OnMissingInterface::Continue {
            None
        } else {
            let socket = sockets.as_ref().and_then(|(socket, _)| socket.as_ref());
            let socket = shared(socket).map_err(AdminError::run)?;
            Some(
                self.start_watcher(&watch_config, missing, socket, &config.stanzas)
                    .map_err(AdminError::run)?,
            )
        };
        Ok(NextStanzas { config, watch_config, watcher, sockets, state })
    }

    /// Replaces the stanzas.
    pub(crate) fn activate(&mut self, next: NextStanzas) {
        let NextStanzas { config, watch_config, watcher, sockets, state } = next;
        let (mut before, sudo) = (self.active.take(), config.server.sudo.clone());
        let (socket, tcp_port) = sockets.unwrap_or_else(|| {
            before.as_mut().map(|active| (active.socket.take(), active.tcp_port.take())).unwrap_or_default()
        });
        let (state, memory) = match (state, before) {
            (Some(opened), _) => opened,
            (None, Some(ActiveStanzas { verifier, state, .. })) => (state, verifier.into_memory()),
            // Prepared without a state because there was one, which cannot have gone since.
            (None, None) => return log::error!("fwknop: no state directory is open; no packet is accepted"),
        };
        for notice in &config.notices {
            log::warn!("{notice}");
        }
        let verifier = Verifier::new(config, memory);
        self.left.extend(self.commands.confirm(verifier.stanzas()));
        match (watcher, &self.watcher) {
            (Some(watcher), _) => {
                self.watcher = Some(watcher);
                self.restart = Restart::new();
            }
            (None, Some(present)) => {
                if present.replace_keys(&watch_config, verifier.stanzas()).is_err() {
                    self.on_exit("the watcher does not accept its new keys");
                }
            }
            (None, None) => {
                log::error!("fwknop: no interface exists yet; waiting for one");
                self.restart.look_later();
            }
        }
        self.active = Some(ActiveStanzas { verifier, state, watch_config, sudo, socket, tcp_port });
    }

    /// Removes all stanzas. Closing commands still run when they are due.
    pub(crate) fn close(&mut self) {
        (self.watcher, self.restart) = (None, Restart::new());
        if let Some(active) = self.active.take()
            && let Err(error) = active.state.close()
        {
            log::error!("{error}");
        }
        self.left.extend(self.commands.confirm(&[]));
    }

    fn bind(
        &self,
        watch_config: &FwknopWatchConfig,
        tcp: Option<u16>,
    ) -> Result<(Option<UdpPort>, Option<(u16, AcceptingPort)>), AdminError> {
        let failure = |kind: &str, port: u16, error: std::io::Error| {
            AdminError::run(format_args!(
                "{kind} port {port}: {}\nhint: find the process that uses it with 'ss -lnp sport = :{port}'",
                files::io_error_text(&error)
            ))
        };
        let number = watch_config.sources.ports.udp.as_ref().map_or(0, |ports| *ports.start());
        let socket = match watch_config.sources.socket {
            true => Some(
                UdpPort::bind(number, ReceiveMode::Received)
                    .map_err(|error| failure("UDP", number, error))?,
            ),
            false => None,
        };
        // The port that is already open stays open.
        let present = self.active.as_ref().and_then(|active| active.tcp_port.as_ref());
        let tcp = tcp.filter(|tcp| present.is_none_or(|(port, _)| port != tcp));
        let tcp = tcp.map(|port| {
            AcceptingPort::open(port)
                .map(|accepting| (port, accepting))
                .map_err(|error| failure("TCP", port, error))
        });
        Ok((socket, tcp.transpose()?))
    }

    pub(super) fn start_watcher(
        &self,
        watch_config: &FwknopWatchConfig,
        missing: OnMissingInterface,
        socket: Option<OwnedFd>,
        stanzas: &[LoadedStanza],
    ) -> Result<FwknopWatcher, String> {
        let program = self.program.as_ref().as_ref().map_err(ToString::to_string)?;
        FwknopWatcher::start(program, watch_config, missing, socket, stanzas)
    }
}

pub(super) fn shared(socket: Option<&UdpPort>) -> Result<Option<OwnedFd>, String> {
    socket.map(UdpPort::share).transpose().map_err(|error| files::io_error_text(&error))
}
