//! Config, keys, folders and what lies in them.

use std::path::Path;

use super::report::CheckReport;
use crate::config::client_keys::{LoadedClient, load_clients};
use crate::config::revoked_keys::RevokedKeys;
use crate::config::{self, Audit, BackendKind, ServerConfig};
use crate::control::{self, AskResult, Request, Response};
use crate::gate::state::GateState;
use crate::os::files;
use crate::state;
use crate::state::{Findings, UndoTask};
use spa_knock_core::auth::undo_is_of;

impl CheckReport {
    /// Who but us may change the config.
    pub(super) fn permissions_of_config(&mut self, path: &Path) {
        self.problems(&config::writers(path));
    }

    pub(super) fn files(&mut self, config: &ServerConfig) {
        self.daemon_user(config);
        self.folders(config);
        self.keys(config);
        #[cfg(feature = "legacy")]
        self.legacy(config);
        self.packet_log(config);
        self.state(config);
        self.undo_tasks(config);
        self.gate_state(config);
    }

    /// Files of the daemon's own user are right for a daemon that runs as that user, and for no other.
    fn daemon_user(&mut self, config: &ServerConfig) {
        if files::trusts_daemon_user() {
            self.warning(
                config,
                &["server", "user"],
                format!("server.user: the config belongs to user {}: a daemon of root's refuses it", config.user),
                "run the daemon as that user (10-unprivileged.conf), or chown -R root: the folder of the config",
            );
        }
    }

    fn folders(&mut self, config: &ServerConfig) {
        let before = self.remarks();
        for folder in [&config.keys_dir, &config.state_dir] {
            self.file(files::check_private_folder(folder));
        }
        self.file(files::check_folders_above(&config.keys_dir));
        if files::exists(&config.state_dir) {
            self.file(files::check_private_tree(&config.state_dir));
        }
        let audit = match &config.audit.to {
            Audit::File(file) => file.parent(),
            Audit::Journal | Audit::Off => None,
        };
        if let Some(folder) = audit {
            self.file(files::check_not_writable_by_others(folder));
        }
        if files::exists(&config.state_dir) {
            self.file(files::try_folder(&config.state_dir, "nothing is granted that cannot be recorded"));
        }
        if let Some(folder) = audit.filter(|folder| files::exists(folder)) {
            self.audit_folder(config, folder);
        }
        if self.remarks() == before {
            self.ok("folders: closed to others, and can be written".to_owned());
        }
    }

    /// Without it knocks act all the same, unless each must be recorded.
    fn audit_folder(&mut self, config: &ServerConfig, folder: &Path) {
        if config.audit.required {
            return self.file(files::try_folder(folder, "no knock acts that is not in the audit log"));
        }
        if let Err(error) = files::try_folder(folder, "knocks act all the same, but are not in the audit log")
        {
            let message = format!("{}: {}", error.path, error.reason);
            self.warning(config, &["server", "audit"], message, &error.hint.unwrap_or_default());
        }
    }

    fn keys(&mut self, config: &ServerConfig) {
        match load_clients(config) {
            Ok(clients) => {
                self.ok(format!("keys: {} loaded", clients.len()));
                self.revoked(config, clients);
            }
            Err(errors) => self.problems(errors.problems()),
        }
    }

    fn revoked(&mut self, config: &ServerConfig, mut clients: Vec<LoadedClient>) {
        match RevokedKeys::read(&config.state_dir) {
            Ok(revoked) => {
                for name in revoked.drop_from(&mut clients) {
                    let message = format!("client.{name}: its key is revoked, and it stays out");
                    let hint = format!("remove it, or give it another key: spa-knockd client rotate {name}");
                    self.warning(config, &["client", &name], message, &hint);
                }
            }
            Err(error) => self.file(Err(error)),
        }
    }

    fn state(&mut self, config: &ServerConfig) {
        let place = ["server", "state_dir"];
        match state::examine(&config.state_dir, config.window) {
            Ok(Findings { damaged, ahead }) => {
                if let Some((message, hint)) = ahead.as_deref().and_then(|text| text.split_once("\nhint: ")) {
                    self.warning(config, &place, message.to_owned(), hint);
                }
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

    /// What waits to be undone and is not run.
    fn undo_tasks(&mut self, config: &ServerConfig) {
        let is_of = |undo: &UndoTask| undo_is_of(&config.actions, &undo.record, &undo.argument, &undo.argv);
        for (file, undoing) in state::waiting_undo_tasks(&config.state_dir).unwrap_or_default() {
            if !is_of(&undoing) {
                let (client, argv) = (undoing.record.client, undoing.argv);
                self.warning(
                    config,
                    &["server", "state_dir"],
                    format!("{}: not run: no action makes it for {client}: {argv:?}", file.display()),
                    "run it by hand if it is yours, then remove the file; or restore the action's `undo`",
                );
            }
        }
    }

    /// What a running daemon would not take up with a reload.
    pub(super) fn restart(&mut self, config: &ServerConfig) {
        if let Ok(AskResult::Answer(Response::Failed { reason })) =
            control::ask(&config.control, &Request::CheckReload {})
        {
            let (message, hint) = reason.split_once("\nhint: ").unwrap_or((&reason, "spa-knockd reload"));
            self.warning(config, &["server"], format!("the running daemon: {message}"), hint);
        }
    }

    fn gate_state(&mut self, config: &ServerConfig) {
        if config.backend != BackendKind::None
            && matches!(GateState::read(&config.state_dir), Ok(GateState::Open))
        {
            let message = format!("the gate is off: {}, also after a restart", config.mode.when_off());
            self.warning(config, &["firewall", "protect"], message, "spa-knockd gate on");
        }
    }
}
