//! Grants from the console: no client holds them, and no client may be called like their holder.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::CONSOLE;
use crate::os::host;
use spa_knock_core::auth::{AuditEvent, AuditRecord, Grant, KeyAge, UnauthenticatedGrant};
use spa_knock_core::knock::{ClientName, PortRange};

/// By which action.
pub(crate) const ACTION: &str = "let-in";

/// The grants that let `address` in to these ports from the console.
///
/// # Errors
/// When it is no address that can be let in.
pub(crate) fn grants(address: IpAddr, ports: Vec<PortRange>, time: Duration) -> Result<Vec<Grant>, String> {
    let (Ok(client), Ok(action)) = (CONSOLE.parse(), ACTION.parse()) else { return Ok(Vec::new()) };
    let door = UnauthenticatedGrant { ports, term: time, client, action };
    door.grants(address, &host::own_addresses()).map_err(|rejection| format!("{address}: {rejection}"))
}

/// What the audit log keeps of it.
pub(crate) fn record(address: IpAddr, time: Duration) -> Option<AuditRecord> {
    Some(AuditRecord {
        event: AuditEvent::Granted,
        client: CONSOLE.parse().ok()?,
        key: KeyAge::Current,
        action: ACTION.parse().ok(),
        addresses: vec![address],
        source: None,
        seconds: u32::try_from(time.as_secs()).unwrap_or(u32::MAX),
        reason: None,
        knock: None,
        via: None,
    })
}

/// Whether this is the name of grants from the console.
pub(crate) fn is_console(name: &ClientName) -> bool {
    name.as_str() == CONSOLE
}
