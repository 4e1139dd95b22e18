//! Replaces `fwknop.rs` in a build without the feature `fwknop`: recognizes no packets of fwknop.

use super::note::Note;
use crate::config::{ConfigErrors, ServerConfig};

/// Recognizes nothing in this build.
pub(super) struct FwknopRecognizer;

impl FwknopRecognizer {
    pub(super) fn of(_: &ServerConfig) -> Result<Self, ConfigErrors> {
        Ok(Self)
    }

    pub(super) const fn port(&self) -> Option<u16> {
        None
    }

    pub(super) const fn note(&self, _: &[u8], _: u16) -> Option<Note> {
        None
    }
}
