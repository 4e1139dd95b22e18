//! What `check` says of `[legacy]` and its doors.

use super::report::CheckReport;
use crate::config::ServerConfig;
use crate::legacy::embedded;
use crate::legacy::knockd::Door;

impl CheckReport {
    pub(super) fn legacy(&mut self, config: &ServerConfig) {
        let Some(of_config) = &config.legacy else { return };
        match embedded::load(config) {
            Ok(written) => {
                let doors = written.map(|written| written.doors).unwrap_or_default();
                let knockd = of_config.knockd.display();
                self.ok(format!("plain sequences: {} doors of {knockd}", doors.len()));
                self.plain_doors(config, &doors);
            }
            Err(errors) => self.problems(errors.problems()),
        }
    }

    fn plain_doors(&mut self, config: &ServerConfig, doors: &[Door]) {
        let place = ["legacy", "knockd"];
        if !doors.is_empty() {
            self.warning(
                config,
                &place,
                "legacy.knockd: plain sequences can be sniffed and replayed".to_owned(),
                "`spa-knockd migrate` makes sealed knocks of them; `spa-knockd status` tells who still uses them",
            );
        }
        for door in doors {
            let opened = door.opening.iter().flat_map(|opening| &opening.ports);
            for ports in opened.filter(|ports| !config.guarded().any(|guarded| guarded.overlap(**ports))) {
                self.warning(
                    config,
                    &place,
                    format!("legacy.knockd: section {}: Open: {ports} is not in firewall.protect", door.name),
                    "it is open to everybody, or something else closes it: a grant changes neither",
                );
            }
        }
    }
}
