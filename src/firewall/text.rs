//! Line-by-line input for the programs that change the firewall.

use std::fmt::{Arguments, Write};

/// The text so far; each module adds the lines of its own program.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn line(&mut self, arguments: Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{arguments}");
    }
}
