//! Whether an undo command that was read from disk is one that the config creates: state is not trusted as code.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::argument::is_safe;
use super::{Action, ActionPart};
use crate::auth::record::AuditRecord;
use crate::auth::{Placeholder, Template};
use crate::knock::{ActionName, ClientName};

/// The values of the placeholders of a command.
pub(in crate::auth) struct Values<'a> {
    pub(in crate::auth) address: IpAddr,
    pub(in crate::auth) port: u16,
    pub(in crate::auth) client: &'a ClientName,
    pub(in crate::auth) action: &'a ActionName,
    pub(in crate::auth) argument: &'a str,
    pub(in crate::auth) seconds: u32,
}

impl Values<'_> {
    /// The text of a template with all placeholders replaced.
    pub(in crate::auth) fn fill(&self, template: &Template) -> String {
        template.fill(|placeholder| match placeholder {
            Placeholder::Address => self.address.to_string(),
            Placeholder::Port => self.port.to_string(),
            Placeholder::Client => self.client.to_string(),
            Placeholder::Action => self.action.to_string(),
            Placeholder::Argument => self.argument.to_owned(),
            Placeholder::Seconds => self.seconds.to_string(),
        })
    }
}

/// Whether `argv` is the command that an `undo` in `actions` creates for this argument and for the client, action,
/// address, source and duration of `record`.
#[must_use]
pub fn undo_is_of(
    actions: &BTreeMap<ActionName, Action>,
    record: &AuditRecord,
    argument: &str,
    argv: &[String],
) -> bool {
    let (Some(name), Some(source), Some(&address)) =
        (&record.action, record.source, record.addresses.first())
    else {
        return false;
    };
    let values = Values {
        address,
        port: source.port(),
        client: &record.client,
        action: name,
        argument,
        seconds: record.seconds,
    };
    let creates = |part: &ActionPart| {
        let ActionPart::Run { undo: Some(undo), .. } = part else { return false };
        undo.len() == argv.len() && undo.iter().zip(argv).all(|(template, arg)| values.fill(template) == *arg)
    };
    is_safe(argument) && actions.get(name).is_some_and(|action| action.parts.iter().any(creates))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::auth::{Arguments, AuditEvent, KeyAge, Via};

    fn record() -> AuditRecord {
        AuditRecord {
            event: AuditEvent::Expired,
            client: "laptop".parse().unwrap(),
            key: KeyAge::Current,
            action: Some("lamp".parse().unwrap()),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            source: Some("10.0.0.1:4000".parse().unwrap()),
            seconds: 60,
            reason: None,
            knock: Some([7; 12]),
            via: Some(Via::Udp),
            claim: None,
        }
    }

    #[test]
    fn only_a_command_that_the_template_creates_from_the_record_is_accepted() {
        let words = ["/bin/off", "{address}:{port}", "{client}", "{argument}", "{seconds}", "{action}"];
        let undo = words.iter().map(|word| word.parse().unwrap()).collect();
        let (argv, timeout) = (vec!["/bin/on".parse().unwrap()], Duration::from_secs(10));
        let run = ActionPart::Run { argv, timeout, undo: Some(undo), arguments: Arguments::default() };
        let actions = BTreeMap::from([("lamp".parse().unwrap(), Action { parts: vec![run], term: None })]);
        let is_of = |record: &AuditRecord, argument: &str, argv: &[&str]| {
            let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
            undo_is_of(&actions, record, argument, &argv)
        };
        let good = ["/bin/off", "10.0.0.1:4000", "laptop", "web", "60", "lamp"];
        assert!(is_of(&record(), "web", &good));
        for (place, word) in
            [(0, "/bin/sh"), (1, "10.0.0.2:4000"), (1, "10.0.0.1:1"), (2, "x"), (3, "w"), (4, "1"), (5, "la")]
        {
            let mut bad = good;
            bad[place] = word;
            assert!(!is_of(&record(), "web", &bad), "{bad:?}");
        }
        assert!(!is_of(&record(), "web", &good[..5]));
        assert!(!is_of(&record(), "-x", &["/bin/off", "10.0.0.1:4000", "laptop", "-x", "60", "lamp"]));
        for other in [
            AuditRecord { action: Some("other".parse().unwrap()), ..record() },
            AuditRecord { action: None, ..record() },
            AuditRecord { addresses: vec![], ..record() },
            AuditRecord { source: None, ..record() },
        ] {
            assert!(!is_of(&other, "web", &good), "{other:?}");
        }
    }
}
