//! Config, keys, folders and what lies in them.

use std::path::Path;

use super::report::Report;
use crate::config::{self, Audit, Backend, ServerConfig};
use crate::os::files;
use crate::server::keys::load_clients;
use crate::server::legacy;
use crate::server::standing::Standing;
use crate::server::state;

impl Report {
    /// Who but us may change the config.
    pub(super) fn permissions_of_config(&mut self, path: &Path) {
        self.problems(&config::writers(path));
    }

    pub(super) fn files(&mut self, config: &ServerConfig) {
        self.folders(config);
        self.keys(config);
        self.legacy(config);
        self.state(config);
        self.standing(config);
    }

    fn folders(&mut self, config: &ServerConfig) {
        let before = self.count();
        for folder in [&config.keys_dir, &config.state_dir] {
            self.file(files::check_private_folder(folder));
        }
        if let Audit::File(file) = &config.audit
            && let Some(folder) = file.parent()
        {
            self.file(files::check_unwritable(folder));
        }
        if self.count() == before {
            self.ok("folders: closed to others".to_owned());
        }
    }

    fn keys(&mut self, config: &ServerConfig) {
        match load_clients(config) {
            Ok(clients) => self.ok(format!("keys: {} loaded", clients.len())),
            Err(errors) => self.problems(errors.problems()),
        }
    }

    fn legacy(&mut self, config: &ServerConfig) {
        let (Some(of_config), loaded) = (&config.legacy, legacy::load(config)) else { return };
        match loaded {
            Ok(written) => {
                let doors = written.map_or(0, |written| written.doors.len());
                self.ok(format!("plain sequences: {doors} doors of {}", of_config.knockd.display()));
            }
            Err(errors) => self.problems(errors.problems()),
        }
    }

    fn state(&mut self, config: &ServerConfig) {
        let place = ["server", "state_dir"];
        match state::examine(&config.state_dir) {
            Ok(damaged) => {
                for file in damaged {
                    let message = format!(
                        "{}: not as it was written; what it should have undone may still stand",
                        file.display()
                    );
                    self.problem(config, &place, message, "undo it by hand, then remove the file");
                }
            }
            Err(error) => {
                let text = error.to_string();
                let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, "run this as root"));
                self.problem(config, &place, message.to_owned(), hint);
            }
        }
    }

    fn standing(&mut self, config: &ServerConfig) {
        if config.backend != Backend::None && matches!(Standing::read(&config.state_dir), Ok(Standing::Off)) {
            let message = "the gate is off: all ports are open, also after a restart".to_owned();
            self.warning(config, &["firewall", "protect"], message, "spa-knockd gate on");
        }
    }
}
