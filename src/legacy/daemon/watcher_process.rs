//! Handle to the legacy watcher process: sends it the doors, their one-time sequences and this host's addresses, and
//! receives its reports.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::ipc::{Bytes, MESSAGE, OnMissingInterface, TEXT_MAX};
use crate::legacy::ipc::{FromLegacyWatcher, ToLegacyWatcher};
use crate::legacy::knockd::KnockSequence;
use crate::os::{clock, host};
use crate::supervisor::child::{CaptureConfig, Disconnected, WatcherChild};
use crate::supervisor::program::Program;
use spa_knock_core::knock::Steady;

/// The settings of a legacy watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LegacyWatchConfig {
    /// The text of the `knockd.conf`.
    pub(crate) config: Vec<u8>,
    /// Ignores IPv6.
    pub(crate) only_v4: bool,
    /// The source of packets.
    pub(crate) capture: CaptureConfig,
}

/// How long after its start a watcher gets changed addresses for the first time, and the longest pause after that. An
/// interface that returns has its addresses later, and another watcher is there before.
const FIRST_ADDRESSES: Duration = Duration::from_millis(500);
const ADDRESSES_EVERY: Duration = Duration::from_secs(10);

/// A running watcher. Dropping it kills the process.
pub(in crate::legacy) struct LegacyWatcher {
    child: WatcherChild,
    addresses: BTreeSet<IpAddr>,
    /// When the host's addresses are read again, and the pause before that, which doubles each time.
    addresses_due: Steady,
    pause: Duration,
}

impl LegacyWatcher {
    /// Starts a watcher and waits until it watches.
    ///
    /// # Errors
    /// A human-readable reason why it does not.
    pub(in crate::legacy) fn start(
        program: &Program,
        config: &LegacyWatchConfig,
        missing: OnMissingInterface,
    ) -> Result<Self, String> {
        let only_v4 = config.only_v4.then_some(ToLegacyWatcher::OnlyV4);
        let messages = config.config.chunks(TEXT_MAX).map(ToLegacyWatcher::Config).chain(only_v4);
        let messages = messages.map(|message| Bytes::from(message.to_bytes()));
        let child = WatcherChild::start(program, &config.capture, missing, None, messages)?;
        let addresses_due = clock::steady().plus(FIRST_ADDRESSES);
        let mut watcher = Self { child, addresses: BTreeSet::new(), addresses_due, pause: FIRST_ADDRESSES };
        watcher.send_addresses(config);
        Ok(watcher)
    }

    /// Receives one report, if there is one.
    ///
    /// # Errors
    /// If the watcher has exited or sent an invalid message.
    pub(in crate::legacy) fn try_recv(&mut self) -> Result<Option<FromLegacyWatcher>, Disconnected> {
        let mut buffer = [0; MESSAGE];
        let Some(length) = self.child.try_recv(&mut buffer)? else { return Ok(None) };
        FromLegacyWatcher::read(buffer.get(..length).unwrap_or_default()).map(Some).ok_or(Disconnected)
    }

    /// The process.
    pub(in crate::legacy) const fn child(&self) -> &WatcherChild {
        &self.child
    }

    /// The process, to kill it.
    pub(in crate::legacy) const fn child_mut(&mut self) -> &mut WatcherChild {
        &mut self.child
    }

    /// Sets the sequence of a door, or removes it. Errors are ignored: a watcher that has exited is noticed when its
    /// reports are read.
    pub(in crate::legacy) fn set_sequence(&self, door: usize, sequence: Option<&KnockSequence>) {
        let text = sequence.map(ToString::to_string).unwrap_or_default();
        let door = u32::try_from(door).unwrap_or(u32::MAX);
        let _ = self.child.send(&ToLegacyWatcher::Sequence(door, text.as_bytes()).to_bytes());
    }

    /// When [`Self::refresh_addresses`] must be called.
    pub(in crate::legacy) const fn addresses_due(&self) -> Steady {
        self.addresses_due
    }

    /// Reads the addresses of the watched interfaces if that is due, and sends them if they have changed.
    pub(in crate::legacy) fn refresh_addresses(&mut self, config: &LegacyWatchConfig) {
        let now = clock::steady();
        if now >= self.addresses_due {
            self.pause = self.pause.saturating_mul(2).min(ADDRESSES_EVERY);
            self.addresses_due = now.plus(self.pause);
            self.send_addresses(config);
        }
    }

    fn send_addresses(&mut self, config: &LegacyWatchConfig) {
        let mut addresses = match config.capture.interfaces.as_slice() {
            [] => host::own_addresses(),
            names => names.iter().flat_map(|name| host::addresses_of(name)).collect(),
        };
        addresses.retain(|address| address.is_ipv4() || !config.only_v4);
        if addresses == self.addresses {
            return;
        }
        for address in &addresses {
            let _ = self.child.send(&ToLegacyWatcher::Address(*address).to_bytes());
        }
        let _ = self.child.send(&ToLegacyWatcher::Addresses.to_bytes());
        self.addresses = addresses;
    }
}

impl AsFd for LegacyWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }
}
