//! What the programs that change the firewall are told, line by line.

use std::fmt::{Arguments, Write};

/// The text; each module that writes one adds the lines that it knows.
#[derive(Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn line(&mut self, arguments: Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{arguments}");
    }
}
