//! Audit records of packets.

use std::net::SocketAddr;

use spa_knock_core::auth::{AuditEvent, AuditRecord, Explanation, KeyAge, Via};
use spa_knock_core::knock::{ActionName, ClientName};

/// A record about a packet from `source`.
pub(super) fn record(
    event: AuditEvent,
    client: &ClientName,
    action: Option<ActionName>,
    source: SocketAddr,
) -> AuditRecord {
    AuditRecord {
        event,
        client: client.clone(),
        key: KeyAge::Current,
        action,
        addresses: Vec::new(),
        source: Some(source),
        seconds: 0,
        reason: None,
        knock: None,
        via: Some(Via::Fwknop),
        claim: None,
    }
}

/// The record of a failure, or of a command that closes and failed.
pub(super) fn with_reason(record: AuditRecord, reason: Explanation) -> AuditRecord {
    AuditRecord { event: AuditEvent::Failed, reason: Some(reason), ..record }
}
