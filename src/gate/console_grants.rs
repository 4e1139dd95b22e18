//! Grants from the console. No client holds them, and no client may have the name of their holder.

use std::net::IpAddr;
use std::time::Duration;

use crate::config::CONSOLE;
use crate::os::host;
use spa_knock_core::auth::{AccessTarget, AuditEvent, AuditRecord, Grant, KeyAge, UnauthenticatedGrant};
use spa_knock_core::knock::{ClientName, PortRange};

/// The action of these grants.
pub(crate) const ACTION: &str = "let-in";

/// The grants that give `address` access to these ports.
///
/// # Errors
/// When the address cannot be granted access.
pub(crate) fn grants(address: IpAddr, ports: Vec<PortRange>, time: Duration) -> Result<Vec<Grant>, String> {
    let (Ok(client), Ok(action)) = (CONSOLE.parse(), ACTION.parse()) else { return Ok(Vec::new()) };
    let targets = ports.into_iter().map(AccessTarget::Ports).collect();
    let grant = UnauthenticatedGrant { targets, term: time, client, action };
    grant.grants(address, &host::own_addresses()).map_err(|rejection| format!("{address}: {rejection}"))
}

/// The audit record of such a grant.
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
        claim: None,
    })
}

/// Whether this is the holder's name of grants from the console.
pub(crate) fn is_console(name: &ClientName) -> bool {
    name.as_str() == CONSOLE
}
