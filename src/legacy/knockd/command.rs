//! A door's commands: the text for `/bin/sh -c`, in which `%IP%` stands for the source's address.

use std::net::IpAddr;

/// The only token. An address contains no character with a special meaning to a shell.
const TOKEN: &[u8] = b"%IP%";
/// knockd's limit for a command, in bytes.
const LENGTH_MAX: usize = 4095;

/// The text of a command, as written in the config: any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellCommand(Vec<u8>);

/// The commands to run when a door opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// The start command.
    pub start: Vec<u8>,
    /// The stop command, which may be empty.
    pub stop: Option<Vec<u8>>,
}

/// A command that exceeds knockd's limit after `%IP%` has been replaced. No command is run in this case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruncatedCommand {
    /// The start command.
    Start,
    /// The stop command. A door that could not be closed is not opened.
    Stop,
}

impl ShellCommand {
    /// Creates a command with this text.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        Self(text.to_owned())
    }

    /// The text, with `%IP%` not replaced.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// The text with `%IP%` replaced. `None` if it is over 4095 bytes.
    #[must_use]
    pub fn fill(&self, source: IpAddr) -> Option<Vec<u8>> {
        let address = source.to_string();
        let mut filled = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_slice();
        while let Some((first, after)) = rest.split_first() {
            match rest.strip_prefix(TOKEN) {
                Some(after) => {
                    filled.extend_from_slice(address.as_bytes());
                    rest = after;
                }
                None => {
                    filled.push(*first);
                    rest = after;
                }
            }
        }
        (filled.len() <= LENGTH_MAX).then_some(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str, source: &str) -> Option<String> {
        let filled = ShellCommand::new(text.as_bytes()).fill(source.parse().unwrap())?;
        Some(String::from_utf8(filled).unwrap())
    }

    #[test]
    fn the_address_replaces_every_token() {
        for (text, command) in [
            ("", ""),
            ("ipt -s %IP% -j X; log %IP%", "ipt -s 10.0.0.1 -j X; log 10.0.0.1"),
            ("%%IP%%", "%10.0.0.1%"),
            ("%ip% %PORT% %IP", "%ip% %PORT% %IP"),
            ("%IP%IP%", "10.0.0.1IP%"),
        ] {
            assert_eq!(filled(text, "10.0.0.1").as_deref(), Some(command));
        }
        assert_eq!(filled("a %IP%", "FD77:0::2").as_deref(), Some("a fd77::2"));
    }

    #[test]
    fn a_command_over_4095_bytes_is_rejected() {
        let text = |length: usize| format!("{}%IP%", "x".repeat(length));
        assert_eq!(filled(&text(4095 - 7), "1.2.3.4").map(|filled| filled.len()), Some(4095));
        assert_eq!(filled(&text(4096 - 7), "1.2.3.4"), None);
    }
}
