//! The audit log: one JSON object a line for what an authentic knock led to, and nothing else.

use std::fs::File;
use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::config::Audit;
use crate::gate::{KeyAge, Record, Via};
use crate::knock::Timestamp;
use crate::os::clock;
use crate::os::files::{self, FileError, Mode};

/// Where records go.
pub(super) struct AuditLog {
    target: Target,
    /// Whether the last write failed: said once, not for each knock.
    failing: bool,
    /// Whether half of a line stands at the end.
    half: bool,
}

enum Target {
    File(File),
    Journal,
    Off,
}

/// A record as it stands in the log.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    event: &'static str,
    client: &'a str,
    /// `previous`, where it was that.
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
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    knock: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'static str>,
}

impl AuditLog {
    /// Opens the log for appending; its folder is made if it is missing.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(audit: &Audit) -> Result<Self, FileError> {
        let target = match audit {
            Audit::File(path) => {
                if let Some(folder) = path.parent() {
                    files::create_folder(folder, Mode::Private)?;
                }
                Target::File(files::append(path, Mode::Private)?)
            }
            Audit::Journal => Target::Journal,
            Audit::Off => Target::Off,
        };
        Ok(Self { target, failing: false, half: false })
    }

    /// Writes one record, and tells people the same in the daemon's log.
    pub(super) fn write(&mut self, record: &Record, now: Timestamp) {
        tell(record);
        let Some(mut line) = line(record, now) else { return };
        if self.half {
            line.insert(0, '\n');
        }
        // One write, which a disk cuts short only where it is full.
        let written = match &mut self.target {
            Target::File(file) => file.write(line.as_bytes()),
            Target::Journal => std::io::stderr().lock().write_all(line.as_bytes()).map(|()| line.len()),
            Target::Off => Ok(line.len()),
        };
        let written = written.and_then(|length| {
            self.half = if length == 0 { self.half } else { length < line.len() };
            if length == line.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
        });
        match written {
            Ok(()) => self.failing = false,
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                log::error!("audit log: cannot be written: {}", files::plain(&error));
            }
        }
    }
}

fn tell(record: &Record) {
    let action = record.action.as_ref().map_or("knock", |action| action.as_str());
    let addresses = record.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let event = record.event.as_str();
    let seconds = if record.seconds > 0 { format!(" for {} s", record.seconds) } else { String::new() };
    let reason = record.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let key = if record.key == KeyAge::Previous { " (with its previous key)" } else { "" };
    log::info!("{}{key}: {action} for {addresses}: {event}{seconds}{reason}", record.client);
}

fn line(record: &Record, now: Timestamp) -> Option<String> {
    let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
    let line = Line {
        time: clock::rfc3339(now),
        event: record.event.as_str(),
        client: record.client.as_str(),
        key: (record.key == KeyAge::Previous).then_some("previous"),
        action: record.action.as_ref().map(|action| action.as_str()),
        address: (!addresses.is_empty()).then(|| addresses.join(",")),
        source: record.source.map(|source| source.to_string()),
        seconds: record.seconds,
        reason: record.reason.as_deref(),
        knock: record.knock.map(|id| id.iter().take(8).map(|byte| format!("{byte:02x}")).collect()),
        via: record.via.map(Via::as_str),
    };
    let mut text = serde_json::to_string(&line).ok()?;
    text.push('\n');
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Event;

    #[test]
    fn a_record_is_one_line_of_json() {
        let record = Record {
            event: Event::Granted,
            client: "laptop".parse().unwrap(),
            key: KeyAge::Current,
            action: Some("open-ssh".parse().unwrap()),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            source: Some("10.0.0.1:4000".parse().unwrap()),
            seconds: 30,
            reason: None,
            knock: Some([0xAB; 12]),
            via: Some(Via::Udp),
        };
        let now = Timestamp::from_millis(1_795_331_877_123);
        assert_eq!(
            line(&record, now).unwrap(),
            "{\"time\":\"2026-11-22T07:17:57.123Z\",\"event\":\"granted\",\"client\":\"laptop\",\
             \"action\":\"open-ssh\",\"address\":\"10.0.0.1,fd00::1\",\"source\":\"10.0.0.1:4000\",\
             \"seconds\":30,\"knock\":\"abababababababab\",\"via\":\"udp\"}\n"
        );
    }
}
