//! Actions and clients: unused actions, actions that open nothing or too much, missing programs, expired clients.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::report::CheckReport;
use crate::admin::clients::awaits_first_start;
use crate::config::{self, ServerConfig, written};
use crate::console::own_command;
use crate::os::{clock, files};
use spa_knock_core::auth::{ActionPart, Template};
use spa_knock_core::knock::Prefix;

/// A grant that is longer keeps a port open permanently rather than for one connection.
const LONG: Duration = Duration::from_secs(86_400);

impl CheckReport {
    pub(super) fn actions(&mut self, config: &ServerConfig) {
        self.opened_ports(config);
        self.programs(config);
        self.terms(config);
        self.failsafe(config);
        self.unused_actions(config);
        self.clients(config);
    }

    fn opened_ports(&mut self, config: &ServerConfig) {
        let gated = config.gated();
        for (name, action) in &config.actions {
            let opened = action.parts.iter().flat_map(|part| match part {
                ActionPart::Open { ports, .. } => ports.as_slice(),
                ActionPart::OpenArgument { allowed, .. } => allowed.as_slice(),
                ActionPart::Forward { .. } | ActionPart::Close(_) | ActionPart::Run { .. } => &[],
            });
            for ports in opened
                .filter(|ports| !gated.iter().chain(&config.published).any(|other| other.overlap(**ports)))
            {
                self.warning(
                    config,
                    &["action", name.as_str(), "open"],
                    format!("action.{name}.open: {ports} is not in firewall.protect"),
                    "the port is open to everyone, or another firewall closes it; a grant changes neither",
                );
            }
        }
    }

    /// Reports programs that cannot be run or that another user can replace.
    fn programs(&mut self, config: &ServerConfig) {
        for (name, action) in &config.actions {
            for (key, argv) in action.parts.iter().flat_map(commands) {
                let Some(program) = argv.first().and_then(Template::constant) else { continue };
                if let Err(error) = files::check_program(Path::new(&program)) {
                    let message = format!("action.{name}.{key}: {}: {}", error.path, error.reason);
                    let hint =
                        error.hint.unwrap_or_else(|| "correct the path, or install the program".to_owned());
                    self.problem(config, &["action", name.as_str(), key], message, &hint);
                }
            }
        }
    }

    fn terms(&mut self, config: &ServerConfig) {
        for (name, action) in &config.actions {
            let Some(term) = action.term.filter(|term| term.usual > LONG) else { continue };
            self.warning(
                config,
                &["action", name.as_str(), "for"],
                format!("action.{name}.for: {} is long", written(term.usual)),
                "a grant needs to last only until the connection is established; anyone who has the address later is let in too",
            );
        }
    }

    fn failsafe(&mut self, config: &ServerConfig) {
        let Some(failsafe) = &config.failsafe else { return };
        let is_everyone = |prefix: &&Prefix| **prefix == Prefix::of(prefix.first(), 0);
        if failsafe.allow.iter().any(|prefix| is_everyone(&prefix)) {
            let message = format!(
                "firewall.failsafe: {} after the daemon dies, the protected ports are open to everyone",
                written(failsafe.after)
            );
            self.warning(
                config,
                &["firewall", "failsafe", "allow"],
                message,
                "name only the addresses that you would repair the host from: allow = [\"203.0.113.0/24\"]",
            );
        }
    }

    fn unused_actions(&mut self, config: &ServerConfig) {
        let used: BTreeSet<_> = config.clients.values().flat_map(|client| &client.rules.allow).collect();
        for name in config.actions.keys().filter(|name| !used.contains(name) && !config.clients.is_empty()) {
            self.warning(
                config,
                &["action", name.as_str()],
                format!("action.{name}: no client is allowed to use it"),
                "add it to a client's `allow`",
            );
        }
    }

    fn clients(&mut self, config: &ServerConfig) {
        if config.clients.is_empty() && !self.has_legacy_users && !awaits_first_start(config) {
            let message = "no clients: no one can knock".to_owned();
            self.warning(config, &[], message, &own_command("client add NAME --allow ACTION"));
        }
        let now = clock::wall();
        let is_expired =
            |client: &config::ClientEntry| client.rules.expires.is_some_and(|expires| expires <= now);
        for (name, _) in config.clients.iter().filter(|(_, client)| is_expired(client)) {
            self.warning(
                config,
                &["client", name.as_str(), "expires"],
                format!("{}: expired", config::full_name("client", name.as_str())),
                &format!("{}, or set a later date", own_command(&format!("client revoke {name}"))),
            );
        }
    }
}

/// The commands of an effect, with their config keys.
fn commands(part: &ActionPart) -> Vec<(&'static str, &[Template])> {
    let ActionPart::Run { argv, undo, .. } = part else { return Vec::new() };
    let undo = undo.iter().map(|undo| ("undo", undo.as_slice()));
    std::iter::once(("run", argv.as_slice())).chain(undo).collect()
}
