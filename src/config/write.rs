//! Config text that commands write.

use crate::console::AdminError;
use crate::os::host;
use spa_knock_core::knock::ServerId;

/// What this host is called.
///
/// # Errors
/// When that is no id.
pub(crate) fn host_id() -> Result<ServerId, AdminError> {
    let name = host::name().unwrap_or_default();
    ServerId::from_typed(&name).map_err(|error| {
        AdminError::usage(format_args!(
            "this host's name {name:?}: {error}\nhint: give the server an id: --id NAME"
        ))
    })
}

/// A TOML string.
pub(crate) fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04X}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}
