//! Which grants are live, and until when: on the disk before the firewall is told, so that whatever ends the daemon,
//! the next one knows what to close.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::firewall::grant_table::{GrantHolder, GrantTable};
use crate::os::files::{self, FileError};
use crate::os::{clock, host};
use spa_knock_core::auth::{Access, AccessTarget};
use spa_knock_core::knock::BootTime;

/// The file in the state folder.
const FILE: &str = "grants";
/// The first word of its first line; then comes the boot that its times belong to.
const HEADER: &str = "spa-knock-grants-1";

/// The file, and the boot that we are in.
pub(super) struct GrantFile {
    file: PathBuf,
    boot: String,
}

impl GrantFile {
    pub(super) fn of(state: &Path) -> Self {
        Self { file: state.join(FILE), boot: host::boot_id().unwrap_or_default() }
    }

    /// What was live when it was written; nothing after another boot, which ends all grants. A line that is not as
    /// we write it is passed over, and what it held is closed.
    pub(super) fn read(&self) -> GrantTable<BootTime> {
        match files::read_trusted_text(&self.file) {
            Ok(text) => parse(&text, &self.boot),
            Err(error) => {
                if !error.missing {
                    log::error!("firewall: {error}: grants that it names are closed");
                }
                GrantTable::default()
            }
        }
    }

    /// Replaces it by what is live at `now`.
    ///
    /// # Errors
    /// When the disk does not take it; it says then what it said before.
    pub(super) fn write(&self, held: &GrantTable<BootTime>, now: BootTime) -> Result<(), FileError> {
        files::prepare(&self.file, text(held, now, &self.boot).as_bytes(), 0)?;
        files::take_place(&self.file)?;
        files::sync_folder(self.file.parent().unwrap_or(Path::new("/")))
    }
}

fn text(held: &GrantTable<BootTime>, now: BootTime, boot: &str) -> String {
    let mut lines = vec![format!("{HEADER} {boot}")];
    for live in held.live(now) {
        let way = match live.access.target {
            AccessTarget::Ports(ports) => format!("ports {ports} -"),
            AccessTarget::Once(door) => format!("once {door} -"),
            AccessTarget::Forward { door, to } => format!("forward {door} {to}"),
        };
        let end = now.plus(live.left).as_millis();
        lines.push(format!("{} {way} {} {} {end}", live.access.from, live.client, live.action));
    }
    lines.join("\n") + "\n"
}

fn parse(text: &str, boot: &str) -> GrantTable<BootTime> {
    let mut held = GrantTable::default();
    let mut lines = text.lines();
    if lines.next() == Some(&format!("{HEADER} {boot}")) {
        for (access, holder) in lines.filter_map(line) {
            held.hold(access, holder);
        }
    }
    held
}

fn line(text: &str) -> Option<(Access, GrantHolder<BootTime>)> {
    let words: Vec<&str> = text.split(' ').collect();
    let [from, way, ports, to, client, action, end] = words.as_slice() else { return None };
    let way = match *way {
        "ports" => AccessTarget::Ports(ports.parse().ok()?),
        "once" => AccessTarget::Once(ports.parse().ok()?),
        "forward" => AccessTarget::Forward { door: ports.parse().ok()?, to: to.parse::<SocketAddr>().ok()? },
        _ => return None,
    };
    let end = clock::boot_at(end.parse().ok()?);
    let holder = GrantHolder { client: client.parse().ok()?, action: action.parse().ok()?, end };
    Some((Access::new(from.parse().ok()?, way), holder))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "spa-knock-grants-1 boot\n\
        10.0.0.0/24 ports tcp/80-90 - phone web 40000\n\
        10.0.0.1 forward tcp/80 0.0.0.0:8080 laptop web 30000\n\
        10.0.0.1 once tcp/22 - laptop ssh 20000\n\
        fd77::1 forward tcp/80 [fd77::5]:8080 laptop web 30000\n";

    #[test]
    fn what_is_written_is_read_and_what_is_over_is_neither() {
        let sorted = |text: String| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        };
        let held = parse(TEXT, "boot");
        assert_eq!(sorted(text(&held, clock::boot_at(0), "boot")), sorted(TEXT.to_owned()));
        let later = text(&held, clock::boot_at(35_000), "boot");
        assert_eq!(later, "spa-knock-grants-1 boot\n10.0.0.0/24 ports tcp/80-90 - phone web 40000\n");
    }

    #[test]
    fn a_file_that_others_can_write_opens_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let journal = GrantFile::of(scratch.path());
        journal.write(&parse(TEXT, "boot"), clock::boot_at(0)).unwrap();
        assert_eq!(journal.read().live(clock::boot_at(0)).len(), 4);
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(scratch.path().join(FILE), permissions).unwrap();
        assert!(journal.read().live(clock::boot_at(0)).is_empty());
    }

    #[test]
    fn another_boot_and_rubbish_open_nothing() {
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
