//! Recognizes packets of fwknop's clients. Which stanza authenticates one is known here; the daemon decides the rest.

use super::finding::Check;
use super::note::Note;
use crate::config::{ConfigErrors, ServerConfig};
use crate::console::own_command;
use crate::legacy::fwknop::FwknopConfig;
use spa_knock_core::knock::ActionName;
use spa_knock_fwknop::{HmacKey, ServerSettings, WireText};

/// Recognizes packets of fwknop.
pub(super) struct FwknopRecognizer {
    server: ServerSettings,
    /// The HMAC keys of the stanzas. `None` if `[legacy]` names no access.conf.
    keys: Option<Vec<(ActionName, HmacKey)>>,
}

impl FwknopRecognizer {
    /// Reads the access.conf that the config names.
    ///
    /// # Errors
    /// The errors in it, with their lines.
    pub(super) fn of(config: &ServerConfig) -> Result<Self, ConfigErrors> {
        let Some(path) = config.legacy.as_ref().and_then(|legacy| legacy.fwknop.as_ref()) else {
            return Ok(Self { server: ServerSettings::default(), keys: None });
        };
        let FwknopConfig { server, stanzas, .. } = FwknopConfig::read(path)?;
        let keys = stanzas.into_iter().map(|loaded| (loaded.name, loaded.stanza.hmac_key)).collect();
        Ok(Self { server, keys: Some(keys) })
    }

    /// The port that packets of fwknop arrive on, if it is only one. Of several, only the knock port is watched live: all
    /// datagrams to a wide range could be too many.
    pub(super) fn port(&self) -> Option<u16> {
        let ports = self.server.ports.udp.as_ref()?;
        (ports.start() == ports.end()).then(|| *ports.start())
    }

    /// The note on a datagram to this port, if it has the form of a packet of fwknop.
    pub(super) fn note(&self, payload: &[u8], port: u16) -> Option<Note> {
        let text = WireText::parse(payload)?;
        if !self.server.ports.udp.as_ref().is_some_and(|ports| ports.contains(&port)) {
            return None;
        }
        let Some(keys) = &self.keys else {
            return Some(
                Note::of(Check::FwknopDropped, "a packet of fwknop")
                    .from("the client still uses fwknop, and `fwknop` in [legacy] names no access.conf"),
            );
        };
        let stanza = keys.iter().find(|(_, key)| key.verify(text).is_some());
        Some(match stanza {
            Some((name, _)) => Note::of(
                Check::Fwknop,
                format!(
                    "a packet of fwknop, authenticated by {name}; the daemon decides about it: see its log, the audit log, \
                     and {}",
                    own_command("status")
                ),
            ),
            None => Note::of(
                Check::FwknopDropped,
                "a packet of fwknop that no stanza authenticates; the daemon drops it without a log line",
            )
            .from("HMAC_KEY or HMAC_DIGEST_TYPE of the client differs from that of its stanza"),
        })
    }
}
