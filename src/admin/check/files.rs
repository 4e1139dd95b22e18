//! Config, keys, directories and the files in them.

use std::path::Path;

use super::report::CheckReport;
use crate::config::client_keys::{LoadedClient, load_clients};
use crate::config::revoked_keys::RevokedKeys;
use crate::config::{self, Audit, BackendKind, ServerConfig};
use crate::console::{counted, own_command};
use crate::control::{self, AskResult, Request, Response};
use crate::gate::state::GateState;
use crate::os::files;
use crate::state;
use crate::state::{Findings, UndoTask};
use spa_knock_core::auth::undo_is_of;

impl CheckReport {
    /// Reports other users who can change the config.
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

    /// Files of the daemon's own user are correct only if the daemon runs as that user.
    fn daemon_user(&mut self, config: &ServerConfig) {
        if files::trusts_daemon_user() {
            self.warning(
                config,
                &["server", "user"],
                format!("server.user: the config belongs to user {}: a daemon that runs as root refuses it", config.user),
                "run the daemon as that user (10-unprivileged.conf), or give the config's directory to root: chown -R root: DIRECTORY",
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
            self.file(files::try_folder(&config.state_dir, "knocks that cannot be recorded are refused"));
        }
        if let Some(folder) = audit.filter(|folder| files::exists(folder)) {
            self.audit_folder(config, folder);
        }
        if self.remarks() == before {
            self.ok("directories: private and writable".to_owned());
        }
    }

    /// Without the audit log, knocks are still accepted, unless `audit-required` is set.
    fn audit_folder(&mut self, config: &ServerConfig, folder: &Path) {
        if config.audit.required {
            return self.file(files::try_folder(folder, "knocks that cannot be recorded are refused"));
        }
        if let Err(error) = files::try_folder(folder, "knocks are accepted without being recorded") {
            let message = format!("{}: {}", error.path, error.reason);
            self.warning(config, &["server", "audit"], message, &error.hint.unwrap_or_default());
        }
    }

    fn keys(&mut self, config: &ServerConfig) {
        match load_clients(config) {
            Ok(clients) => {
                let signed = clients.iter().filter(|client| client.signing.is_some()).count();
                let signed = match signed {
                    0 => String::new(),
                    signed => format!(", with an SSH key: {signed}"),
                };
                self.ok(format!("keys: {} loaded{signed}", counted(clients.len(), "client key")));
                self.revoked(config, clients);
            }
            Err(errors) => self.problems(errors.problems()),
        }
    }

    fn revoked(&mut self, config: &ServerConfig, mut clients: Vec<LoadedClient>) {
        match RevokedKeys::read(&config.state_dir) {
            Ok(revoked) => {
                for name in revoked.drop_from(&mut clients) {
                    let message = format!("client.{name}: its key is revoked, so it is refused");
                    let rotate = own_command(&format!("client rotate {name}"));
                    let hint = format!("remove the client, or give it a new key: {rotate}");
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
                        "{}: damaged; the action that it should undo may still be in effect",
                        file.display()
                    );
                    self.problem(config, &place, message, "undo the action by hand, then remove the file");
                }
            }
            Err(error) => {
                let text = error.to_string();
                let (message, hint) = text.split_once("\nhint: ").unwrap_or((&text, "run this as root"));
                self.problem(config, &place, message.to_owned(), hint);
            }
        }
    }

    /// Warns of undo tasks that do not match an action and are not run.
    fn undo_tasks(&mut self, config: &ServerConfig) {
        let is_of = |undo: &UndoTask| undo_is_of(&config.actions, &undo.record, &undo.argument, &undo.argv);
        for (file, task) in state::waiting_undo_tasks(&config.state_dir).unwrap_or_default() {
            if !is_of(&task) {
                let (client, argv) = (task.record.client, task.argv);
                self.warning(
                    config,
                    &["server", "state_dir"],
                    format!("{}: undo task not run: no action creates it for {client}: {argv:?}", file.display()),
                    "run the command by hand if it is yours, then remove the file; or restore the action's `undo`",
                );
            }
        }
    }

    /// Warns of changes that a running daemon cannot apply by a reload.
    pub(super) fn restart(&mut self, config: &ServerConfig) {
        if let Ok(AskResult::Reply(Response::Failed { reason })) =
            control::ask(&config.control, &Request::CheckReload {})
        {
            let reload = own_command("reload");
            let (message, hint) = reason.split_once("\nhint: ").unwrap_or((&reason, &reload));
            self.warning(config, &["server"], format!("the running daemon: {message}"), hint);
        }
    }

    fn gate_state(&mut self, config: &ServerConfig) {
        if config.backend != BackendKind::None
            && matches!(GateState::read(&config.state_dir), Ok(GateState::Open))
        {
            let message = format!("the gate is off: {}, also after a restart", config.mode.when_off());
            self.warning(config, &["firewall", "protect"], message, &own_command("gate on"));
        }
    }
}
