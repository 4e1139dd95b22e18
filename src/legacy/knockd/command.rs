//! Commands of a door: the text for `/bin/sh -c`, with `%IP%` for the source's address.

use std::net::IpAddr;

/// The only token there is. An address has no character that a shell would take for its own.
const TOKEN: &[u8] = b"%IP%";
/// knockd's room for a command.
const LENGTH_MAX: usize = 4095;

/// The text of a command, as it stands in the config: any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellCommand(Vec<u8>);

/// What is to be run for one opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orders {
    /// The command that opens.
    pub start: Vec<u8>,
    /// The command that closes, which may be empty.
    pub stop: Option<Vec<u8>>,
}

/// A command that got too long for knockd by its addresses; nothing is run then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruncatedCommand {
    /// The one that opens.
    Start,
    /// The one that closes: what nobody could close is not opened.
    Stop,
}

impl ShellCommand {
    /// The command with this text.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        Self(text.to_owned())
    }

    /// The text, `%IP%` and all.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.0
    }

    /// The text for the shell; nothing if it is over 4095 bytes.
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
    fn the_address_stands_wherever_the_token_stood() {
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
    fn what_is_longer_than_4095_bytes_is_no_command() {
        let text = |length: usize| format!("{}%IP%", "x".repeat(length));
        assert_eq!(filled(&text(4095 - 7), "1.2.3.4").map(|filled| filled.len()), Some(4095));
        assert_eq!(filled(&text(4096 - 7), "1.2.3.4"), None);
    }
}
