//! Formats config text that commands write.

use crate::console::AdminError;
use crate::os::host;
use spa_knock_core::knock::ServerId;

/// The host name of this host as a server id.
///
/// # Errors
/// If the host name is not a valid server id.
pub(crate) fn host_id() -> Result<ServerId, AdminError> {
    let name = host::name().unwrap_or_default();
    ServerId::from_typed(&name).map_err(|error| {
        AdminError::usage(format_args!(
            "host name {name:?}: {error}\nhint: choose the server id with --id NAME"
        ))
    })
}

/// Formats a TOML string.
pub(crate) fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}
