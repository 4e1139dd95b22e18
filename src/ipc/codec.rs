//! Writes and reads the bytes of a message. Messages have a fixed size and are wiped after use.

use zeroize::Zeroizing;

use spa_knock_core::wire::Reader;

/// Maximum length of a message, in bytes. All messages of the native watcher and of the shell have this length.
pub(crate) const MESSAGE: usize = 512;
/// Maximum length of a text in a message, in bytes.
pub(crate) const TEXT_MAX: usize = 500;

/// An encoded message. Some contain keys, so all are wiped.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;

/// Fills a message from the front. A value that does not fit is left out; the reader then rejects the message.
pub(super) struct Writer {
    bytes: Bytes,
    used: usize,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self { bytes: Zeroizing::new(vec![0; MESSAGE]), used: 0 }
    }

    pub(super) fn put(&mut self, value: &[u8]) -> &mut Self {
        if let Some(room) = self.bytes.get_mut(self.used..).and_then(|rest| rest.get_mut(..value.len())) {
            room.copy_from_slice(value);
            self.used = self.used.saturating_add(value.len());
        }
        self
    }

    /// Appends a text, truncated to `max` bytes.
    pub(super) fn put_text(&mut self, text: &str, max: usize) {
        let kept = text.get(..text.floor_char_boundary(max)).unwrap_or_default();
        self.put(&u16::try_from(kept.len()).unwrap_or(0).to_be_bytes()).put(kept.as_bytes());
    }

    pub(super) fn finish(self) -> Bytes {
        self.bytes
    }
}

/// Reads a text from a process that may be compromised. Removes control characters except line breaks.
pub(super) fn read_text(reader: &mut Reader<'_>) -> Option<String> {
    let length = usize::from(reader.u16()?);
    let text = std::str::from_utf8(reader.take(length)?).ok()?;
    Some(text.chars().filter(|c| *c == '\n' || !c.is_control()).collect())
}
