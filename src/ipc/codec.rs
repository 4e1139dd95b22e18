//! Bytes of a message, written within its bounds and wiped.

use zeroize::Zeroizing;

use spa_knock_core::wire::Reader;

/// Bytes of the longest message. Those of the native watcher and of the shell all have this size.
pub(crate) const MESSAGE: usize = 512;
/// What of a text fits into one.
pub(crate) const TEXT_MAX: usize = 500;

/// A message on its way. Some carry keys: all are wiped.
pub(crate) type Bytes = Zeroizing<Vec<u8>>;

/// Fills a message from the front; what does not fit is left out, and the reader refuses the rest.
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

    /// A text, cut at `max` bytes.
    pub(super) fn put_text(&mut self, text: &str, max: usize) {
        let kept = text.get(..text.floor_char_boundary(max)).unwrap_or_default();
        self.put(&u16::try_from(kept.len()).unwrap_or(0).to_be_bytes()).put(kept.as_bytes());
    }

    pub(super) fn finish(self) -> Bytes {
        self.bytes
    }
}

/// Text of a process that may be compromised: control characters other than line ends are removed.
pub(super) fn read_text(reader: &mut Reader<'_>) -> Option<String> {
    let length = usize::from(reader.u16()?);
    let text = std::str::from_utf8(reader.take(length)?).ok()?;
    Some(text.chars().filter(|c| *c == '\n' || !c.is_control()).collect())
}
