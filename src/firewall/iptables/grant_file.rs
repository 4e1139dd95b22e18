//! The grant file: the active grants and their ends, written to disk before the firewall is changed. However the daemon
//! ends, the next one knows what to close.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::firewall::grant_table::{GrantHolder, GrantTable};
use crate::os::files::{self, FileError};
use crate::os::{clock, host};
use spa_knock_core::auth::{Access, AccessTarget, SourceTranslation, TransitPort, TransitRoute};
use spa_knock_core::knock::BootTime;

/// Name of the file in the state folder.
const FILE: &str = "grants";
/// First word of the first line; the id of the boot to which its times belong follows.
const HEADER: &str = "spa-knock-grants-1";

/// The file, and the id of the current boot.
pub(super) struct GrantFile {
    file: PathBuf,
    boot: String,
}

impl GrantFile {
    pub(super) fn of(state: &Path) -> Self {
        Self { file: state.join(FILE), boot: host::boot_id().unwrap_or_default() }
    }

    /// The grants that were active when it was written; none after another boot, which ends all grants. A line that
    /// does not have our format is skipped, and its grant is closed.
    pub(super) fn read(&self) -> GrantTable<BootTime> {
        match files::read_trusted_text(&self.file) {
            Ok(text) => parse(&text, &self.boot),
            Err(error) => {
                if !error.missing {
                    log::error!("firewall: {error}; closing the grants that it lists");
                }
                GrantTable::default()
            }
        }
    }

    /// Replaces its content by the grants that are active at `now`.
    ///
    /// # Errors
    /// When it cannot be written; it keeps its old content then.
    pub(super) fn write(&self, table: &GrantTable<BootTime>, now: BootTime) -> Result<(), FileError> {
        files::prepare(&self.file, text(table, now, &self.boot).as_bytes(), 0)?;
        files::swap_in(&self.file)?;
        files::sync_folder(self.file.parent().unwrap_or(Path::new("/")))
    }
}

fn text(table: &GrantTable<BootTime>, now: BootTime, boot: &str) -> String {
    let mut lines = vec![format!("{HEADER} {boot}")];
    for live in table.live(now) {
        let target = match live.access.target {
            AccessTarget::Ports(ports) => format!("ports {ports} -"),
            AccessTarget::Once(port) => format!("once {port} -"),
            AccessTarget::Forward { port, to } => format!("forward {port} {to}"),
            AccessTarget::Divert(to) => format!("divert - {to}"),
            AccessTarget::Transit(TransitRoute { to, source }) => {
                let source = source_text(source);
                match to {
                    Some(TransitPort { host, port }) => format!("route {port} {host},{source}"),
                    None => format!("transit - {source}"),
                }
            }
        };
        let end = now.plus(live.left).as_millis();
        lines.push(format!("{} {target} {} {} {end}", live.access.from, live.client, live.action));
    }
    lines.join("\n") + "\n"
}

fn parse(text: &str, boot: &str) -> GrantTable<BootTime> {
    let mut table = GrantTable::default();
    let mut lines = text.lines();
    if lines.next() == Some(&format!("{HEADER} {boot}")) {
        for (access, holder) in lines.filter_map(line) {
            table.hold(access, holder);
        }
    }
    table
}

fn line(text: &str) -> Option<(Access, GrantHolder<BootTime>)> {
    let fields: Vec<&str> = text.split(' ').collect();
    let [from, target, ports, to, client, action, end] = fields.as_slice() else { return None };
    let target = match *target {
        "ports" => AccessTarget::Ports(ports.parse().ok()?),
        "once" => AccessTarget::Once(ports.parse().ok()?),
        "forward" => AccessTarget::Forward { port: ports.parse().ok()?, to: to.parse::<SocketAddr>().ok()? },
        "divert" => AccessTarget::Divert(to.parse().ok()?),
        "route" => {
            let (host, source) = to.split_once(',')?;
            let to = TransitPort { host: host.parse().ok()?, port: ports.parse().ok()? };
            AccessTarget::Transit(TransitRoute { to: Some(to), source: source_of(source)? })
        }
        "transit" => AccessTarget::Transit(TransitRoute { to: None, source: source_of(to)? }),
        _ => return None,
    };
    let end = clock::boot_at(end.parse().ok()?);
    let holder = GrantHolder { client: client.parse().ok()?, action: action.parse().ok()?, end };
    Some((Access::new(from.parse().ok()?, target), holder))
}

fn source_text(source: SourceTranslation) -> String {
    match source {
        SourceTranslation::Kept => "kept".to_owned(),
        SourceTranslation::Masquerade => "masquerade".to_owned(),
        SourceTranslation::Address(address) => address.to_string(),
    }
}

fn source_of(text: &str) -> Option<SourceTranslation> {
    Some(match text {
        "kept" => SourceTranslation::Kept,
        "masquerade" => SourceTranslation::Masquerade,
        address => SourceTranslation::Address(address.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "spa-knock-grants-1 boot\n\
        10.0.0.0/24 ports tcp/80-90 - phone web 40000\n\
        10.0.0.1 forward tcp/80 0.0.0.0:8080 laptop web 30000\n\
        10.0.0.1 once tcp/22 - laptop ssh 20000\n\
        10.0.0.1 divert - 10.9.0.1 fwknop stanza-1 30000\n\
        10.0.0.1 route tcp/80 10.9.0.1,10.9.0.2 fwknop stanza-1 30000\n\
        10.0.0.1 route tcp/81 10.9.0.1,kept fwknop stanza-1 30000\n\
        10.0.0.1 transit - masquerade fwknop stanza-1 30000\n\
        fd77::1 forward tcp/80 [fd77::5]:8080 laptop web 30000\n";

    #[test]
    fn written_grants_are_read_back_and_expired_ones_are_not_written() {
        let sorted = |text: String| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        };
        let table = parse(TEXT, "boot");
        assert_eq!(sorted(text(&table, clock::boot_at(0), "boot")), sorted(TEXT.to_owned()));
        let later = text(&table, clock::boot_at(35_000), "boot");
        assert_eq!(later, "spa-knock-grants-1 boot\n10.0.0.0/24 ports tcp/80-90 - phone web 40000\n");
    }

    #[test]
    fn a_file_that_others_can_write_opens_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let file = GrantFile::of(scratch.path());
        file.write(&parse(TEXT, "boot"), clock::boot_at(0)).unwrap();
        assert_eq!(file.read().live(clock::boot_at(0)).len(), 8);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(scratch.path().join(FILE), permissions).unwrap();
        assert!(file.read().live(clock::boot_at(0)).is_empty());
    }

    #[test]
    fn grants_of_another_boot_and_invalid_lines_open_nothing() {
        for (text, boot) in [
            (TEXT, "another"),
            ("", "boot"),
            (
                "spa-knock-grants-1 boot\n10.0.0.1 ports tcp/22 - laptop ssh\n\n\0\n10.0.0.1 ways a b c d 1\n",
                "boot",
            ),
        ] {
            assert!(parse(text, boot).live(clock::boot_at(0)).is_empty(), "{text:?}");
        }
    }
}
