//! The written forms of a record: one JSON object per line for machines, one human-readable sentence in the daemon's
//! log.

use serde::Serialize;

use crate::os::clock;
use spa_knock_core::auth::{AuditRecord, KeyAge, Via};
use spa_knock_core::knock::Timestamp;

/// An audit record in JSON.
#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    event: &'static str,
    server: &'a str,
    client: &'a str,
    /// `previous` if the client used its previous key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    seconds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    knock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'static str>,
    /// What the store of the fleet decided, with or without its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<&'static str>,
    /// `none` if the knock was granted although the store did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<&'static str>,
    /// How long the store took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    store_ms: Option<serde_json::Number>,
    /// The number of events, if more than one; the other fields are those of the last event.
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

/// The result of a knock that was granted without the store.
const WITHOUT_STORE: &str = "none";

/// A note about records that are missing from the log.
#[derive(Serialize)]
struct LossLine<'a> {
    time: String,
    event: &'static str,
    server: &'a str,
    count: u64,
}

/// The line for `count` events that `record` describes, including the line break.
pub(super) fn line(server: &str, record: &AuditRecord, count: u64, now: Timestamp) -> Option<String> {
    let reason = record.reason.as_ref();
    text(&AuditLine {
        time: clock::rfc3339(now),
        event: record.event.as_str(),
        server,
        client: record.client.as_str(),
        key: (record.key == KeyAge::Previous).then_some("previous"),
        action: record.action.as_ref().map(|action| action.as_str()),
        address: (!record.addresses.is_empty()).then(|| addresses(record, ",")),
        source: record.source.map(|source| source.to_string()),
        seconds: record.seconds,
        reason: reason.map(|reason| reason.cause.as_str()),
        detail: reason.map(|reason| reason.detail.as_str()),
        knock: record.knock.map(|id| id.iter().take(8).map(|byte| format!("{byte:02x}")).collect()),
        via: record.via.map(Via::as_str),
        claim: record.claim.map(|claim| claim.result).filter(|result| *result != WITHOUT_STORE),
        store: record.claim.map(|claim| claim.result).filter(|result| *result == WITHOUT_STORE),
        store_ms: record.claim.and_then(|claim| milliseconds(claim.micros?)),
        count: (count > 1).then_some(count),
    })
}

/// Milliseconds with one digit after the point.
fn milliseconds(micros: u64) -> Option<serde_json::Number> {
    let tenths = u32::try_from(micros.saturating_add(50).checked_div(100)?).unwrap_or(u32::MAX);
    serde_json::Number::from_f64(f64::from(tenths) / 10.0)
}

/// The line for `count` lost records.
pub(super) fn loss(server: &str, count: u64, now: Timestamp) -> Option<String> {
    text(&LossLine { time: clock::rfc3339(now), event: "lost", server, count })
}

/// The record as a human-readable sentence.
pub(super) fn sentence(record: &AuditRecord, count: u64) -> String {
    let action = record.action.as_ref().map_or("knock", |action| action.as_str());
    let addresses = match addresses(record, ", ") {
        addresses if addresses.is_empty() => addresses,
        addresses => format!(" for {addresses}"),
    };
    let event = record.event.as_str();
    let seconds = record.for_seconds();
    let reason = record.reason.as_ref().map(|reason| format!(": {}", reason.detail)).unwrap_or_default();
    let key = if record.key == KeyAge::Previous { " (with its previous key)" } else { "" };
    let count = if count > 1 { format!(" ({count} times)") } else { String::new() };
    format!("{}{key}: {action}{addresses}: {event}{seconds}{reason}{count}", record.client)
}

fn addresses(record: &AuditRecord, separator: &str) -> String {
    record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}

fn text(line: &impl Serialize) -> Option<String> {
    let mut text = serde_json::to_string(line).ok()?;
    text.push('\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spa_knock_core::auth::{AuditCause, AuditEvent, ClaimNote, Explanation, Reason};

    const NOW: Timestamp = Timestamp::from_millis(1_795_331_877_123);

    fn record() -> AuditRecord {
        AuditRecord {
            event: AuditEvent::Granted,
            client: "laptop".parse().unwrap(),
            key: KeyAge::Current,
            action: Some("open-ssh".parse().unwrap()),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            source: Some("10.0.0.1:4000".parse().unwrap()),
            seconds: 30,
            reason: None,
            knock: Some([0xAB; 12]),
            via: Some(Via::Udp),
            claim: None,
        }
    }

    #[test]
    fn a_record_is_one_line_of_json() {
        assert_eq!(
            line("bastion.test", &record(), 1, NOW).unwrap(),
            "{\"time\":\"2026-11-22T07:17:57.123Z\",\"event\":\"granted\",\"server\":\"bastion.test\",\
             \"client\":\"laptop\",\"action\":\"open-ssh\",\"address\":\"10.0.0.1,fd00::1\",\
             \"source\":\"10.0.0.1:4000\",\"seconds\":30,\"knock\":\"abababababababab\",\"via\":\"udp\"}\n"
        );
        assert_eq!(sentence(&record(), 1), "laptop: open-ssh for 10.0.0.1, fd00::1: granted for 30 s");
    }

    #[test]
    fn a_refusal_has_a_reason_code_a_readable_detail_and_a_count() {
        let reason = Explanation::new(AuditCause::Rejected(Reason::OtpReused), "one-time password was used");
        let refused = AuditRecord {
            event: AuditEvent::Refused,
            seconds: 30,
            reason: Some(reason),
            knock: None,
            ..record()
        };
        let text = line("bastion.test", &refused, 7, NOW).unwrap();
        assert!(
            text.contains(
                "\"reason\":\"otp-reused\",\"detail\":\"one-time password was used\",\"via\":\"udp\",\"count\":7}"
            ),
            "{text}"
        );
        assert_eq!(
            sentence(&refused, 7),
            "laptop: open-ssh for 10.0.0.1, fd00::1: refused: one-time password was used (7 times)"
        );
    }

    #[test]
    fn what_the_store_of_a_fleet_decided_is_in_the_line() {
        let with = |result, micros| {
            let claim = Some(ClaimNote { result, micros });
            line("bastion.test", &AuditRecord { claim, ..record() }, 1, NOW).unwrap()
        };
        assert!(with("won", Some(2_349)).ends_with("\"via\":\"udp\",\"claim\":\"won\",\"store_ms\":2.3}\n"));
        assert!(with("shared", None).ends_with("\"claim\":\"shared\"}\n"));
        assert!(with("none", None).ends_with("\"via\":\"udp\",\"store\":\"none\"}\n"));
    }

    #[test]
    fn lost_records_have_a_line_of_their_own() {
        assert_eq!(
            loss("bastion.test", 12, NOW).unwrap(),
            "{\"time\":\"2026-11-22T07:17:57.123Z\",\"event\":\"lost\",\"server\":\"bastion.test\",\"count\":12}\n"
        );
    }
}
