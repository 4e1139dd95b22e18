//! Replaces the stanzas: first everything that can fail, then the change.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::adopted_digests::adopt_digests;
use super::bound_ports::{BoundPorts, NeededPorts};
use super::{ActiveStanzas, FwknopService};
use crate::console::AdminError;
use crate::ipc::OnMissingInterface;
use crate::legacy::fwknop::settings::{FwknopConfig, LoadedStanza};
use crate::legacy::fwknop::state_reset::memory_error;
use crate::legacy::fwknop::verifier::Verifier;
use crate::legacy::fwknop::watcher_process::{FwknopWatchConfig, FwknopWatcher};
use crate::state::{self, ReplayFolder};
use crate::supervisor::restart::Restart;
use spa_knock_core::auth::ReplayMemory;

/// A new config, and what it needs that can fail.
pub(crate) struct NextStanzas {
    config: Rc<FwknopConfig>,
    watch_config: FwknopWatchConfig,
    /// None if the present one continues with new keys.
    watcher: Option<FwknopWatcher>,
    needed: NeededPorts,
    /// Ports that are not open yet.
    opened: BoundPorts,
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
            None => Some(self.open_state(&config)?),
        };
        let needed = NeededPorts::of(&watch_config, config.server.tcp_server);
        let opened = self.ports.open_missing(needed)?;
        let continues = self.active.as_ref().is_some_and(|active| active.watch_config == watch_config)
            && self.watcher.is_some();
        let waits = missing == OnMissingInterface::Continue && watch_config.capture.misses_everything();
        let watcher = if continues || waits {
            None
        } else {
            let socket =
                if watch_config.sources.socket { self.ports.socket(Some(&opened)) } else { Ok(None) };
            let started =
                socket.and_then(|socket| self.start_watcher(&watch_config, missing, socket, &config.stanzas));
            Some(started.map_err(AdminError::run)?)
        };
        Ok(NextStanzas { config, watch_config, watcher, needed, opened, state })
    }

    /// Replaces the stanzas.
    pub(crate) fn activate(&mut self, next: NextStanzas) {
        let NextStanzas { config, watch_config, watcher, needed, opened, state } = next;
        let sudo = config.server.sudo.clone();
        self.ports.replace(opened, needed);
        let (state, memory) = match (state, self.active.take()) {
            (Some(opened), _) => opened,
            (None, Some(ActiveStanzas { verifier, state, .. })) => (state, verifier.into_memory()),
            // Prepared without a state because there was one, which cannot have gone since.
            (None, None) => return log::error!("fwknop: no state directory is open; no packet is accepted"),
        };
        for notice in config.all_notices() {
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
        self.active = Some(ActiveStanzas { verifier, state, watch_config, sudo });
    }

    /// Removes all stanzas. Closing commands still run when they are due.
    pub(crate) fn close(&mut self) {
        (self.watcher, self.restart) = (None, Restart::new());
        self.ports = BoundPorts::default();
        if let Some(active) = self.active.take()
            && let Err(error) = active.state.close()
        {
            log::error!("{error}");
        }
        self.left.extend(self.commands.confirm(&[]));
    }

    /// Opens the replay state. At the first start, it knows what fwknopd has just accepted.
    fn open_state(&self, config: &FwknopConfig) -> Result<(ReplayFolder, ReplayMemory), AdminError> {
        let (has_run, window) = (state::has_run(&self.folder), config.window());
        let (mut state, mut memory) =
            state::open_in(&self.folder, window, config.ahead()).map_err(memory_error)?;
        if !has_run {
            adopt_digests(&config.server.run_directory, &config.stanzas, window, (&mut state, &mut memory));
        }
        Ok((state, memory))
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
