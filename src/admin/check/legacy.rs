//! The checks of `[legacy]` and its doors.

use super::report::CheckReport;
use crate::config::ServerConfig;
use crate::console::{counted, own_command};
use crate::legacy::embedded;
use crate::legacy::knockd::Door;

impl CheckReport {
    pub(super) fn legacy(&mut self, config: &ServerConfig) {
        let Some(section) = &config.legacy else { return };
        match embedded::load(config) {
            Ok(written) => {
                if let (Some(knockd), Some(path)) = (written.knockd, &section.knockd) {
                    self.has_legacy_users |= !knockd.doors.is_empty();
                    let doors = counted(knockd.doors.len(), "door");
                    self.ok(format!("knock sequences: {doors} in {}", path.display()));
                    self.opened_ports_of_doors(config, &knockd.doors);
                }
                #[cfg(feature = "fwknop")]
                if let Some(fwknop) = written.fwknop {
                    self.fwknop(config, &fwknop);
                }
            }
            Err(errors) => self.problems(errors.problems()),
        }
    }

    fn opened_ports_of_doors(&mut self, config: &ServerConfig, doors: &[Door]) {
        let place = ["legacy", "knockd"];
        if !doors.is_empty() {
            self.warning(
                config,
                &place,
                "legacy.knockd: knock sequences can be observed and replayed".to_owned(),
                &format!(
                    "`spa-knockd migrate` translates them into encrypted knocks; `{}` lists who still uses them",
                    own_command("status")
                ),
            );
        }
        for door in doors {
            let opened = door.opening.iter().flat_map(|opening| &opening.ports);
            for ports in opened.filter(|ports| !config.guarded().any(|guarded| guarded.overlap(**ports))) {
                self.warning(
                    config,
                    &place,
                    format!("legacy.knockd: section {}: Open: {ports} is not in firewall.protect", door.name),
                    "the port is open to everyone, or another firewall closes it; a grant changes neither",
                );
            }
        }
    }
}
