//! `spa-knockd check`: everything about config, keys and host that would keep the daemon from doing its work.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use super::console::{Failure, print};
use super::keys::load_clients;
use super::state;
use crate::config::{self, Audit, Backend, CaptureKind, ConfigErrors, Interfaces, Problem, ServerConfig};
use crate::gate::Part;
use crate::os::clock;
use crate::os::files::{self, FileError};
use crate::os::host::{self, Capability, Link};

/// Tells every problem on standard output. Exit code 0 when there is none but warnings, else 1.
pub(super) fn check(path: &Path) -> ExitCode {
    let mut report = Report::default();
    let config = config::load(path);
    report.permissions_of_config(path);
    match config {
        Ok(config) => {
            report.ok.push(format!(
                "config {}: actions {}, clients {}",
                path.display(),
                config.actions.len(),
                config.clients.len()
            ));
            report.look_at(&config);
        }
        Err(errors) => report.problems.extend_from_slice(errors.problems()),
    }
    let clean = report.problems.is_empty();
    match print(&report.text()) {
        Ok(()) if clean => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(failure) => Failure::exit(failure),
    }
}

/// What has been found.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    ok: Vec<String>,
}

impl Report {
    fn look_at(&mut self, config: &ServerConfig) {
        self.folders(config);
        self.keys(config);
        self.state(config);
        self.interfaces(config);
        self.capabilities(config);
        self.knock_port(config);
        self.watcher_user(config);
        self.doors(config);
        self.unused_actions(config);
        self.clients(config);
    }

    /// Problems, warnings, then what is fine if nothing is wrong.
    fn text(mut self) -> String {
        let problems = if self.problems.is_empty() {
            String::new()
        } else {
            format!("{}\n", ConfigErrors::of(self.problems))
        };
        self.warnings.sort();
        let warnings: String = self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        let fine = if problems.is_empty() { self.ok } else { Vec::new() };
        let ok: String = fine.iter().map(|line| format!("ok: {line}\n")).collect();
        format!("{problems}{warnings}{ok}")
    }

    fn permissions_of_config(&mut self, path: &Path) {
        self.problems.extend(config::writers(path));
    }

    fn folders(&mut self, config: &ServerConfig) {
        let before = self.problems.len();
        for folder in [&config.keys_dir, &config.state_dir] {
            self.file(files::check_private_folder(folder));
        }
        if let Audit::File(file) = &config.audit
            && let Some(folder) = file.parent()
        {
            self.file(files::check_unwritable(folder));
        }
        if self.problems.len() == before {
            self.ok.push("folders: closed to others".to_owned());
        }
    }

    fn keys(&mut self, config: &ServerConfig) {
        match load_clients(config) {
            Ok(clients) => self.ok.push(format!("keys: {} loaded", clients.len())),
            Err(errors) => self.problems.extend_from_slice(errors.problems()),
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

    fn interfaces(&mut self, config: &ServerConfig) {
        let Interfaces::Named(names) = &config.interfaces else { return };
        for name in names {
            let reason = match host::link(name) {
                Link::Up => continue,
                Link::Missing => "no such interface",
                Link::Down => "the interface is down",
            };
            let hint = "ip link shows all interfaces; interfaces = [\"any\"] listens on each";
            self.problem(
                config,
                &["server", "interfaces"],
                format!("server.interfaces: {name}: {reason}"),
                hint,
            );
        }
    }

    fn capabilities(&mut self, config: &ServerConfig) {
        if config.capture == CaptureKind::Pcap {
            self.capability(config, &["server", "capture"], Capability::NetRaw);
        }
        if config.backend == Backend::Nftables {
            self.capability(config, &["firewall", "backend"], Capability::NetAdmin);
        }
        if config.backend == Backend::Nftables && host::program("nft").is_none() {
            let message = "firewall.backend: the program nft is not there".to_owned();
            self.problem(config, &["firewall", "backend"], message, "install it, e.g.: apt install nftables");
        }
    }

    fn capability(&mut self, config: &ServerConfig, place: &[&str], capability: Capability) {
        let (key, needed) = (place.join("."), capability.as_str());
        match host::has_capability(capability) {
            Some(true) => self.ok.push(format!("{key}: {needed} is there")),
            Some(false) => {
                let message = format!("{key}: needs {needed}, which this process lacks");
                self.problem(config, place, message, "run it as root, or by its systemd unit");
            }
            None => {
                let message = format!("{key}: whether {needed} is there cannot be found out");
                self.warning(config, place, message, "/proc/self/status cannot be read");
            }
        }
    }

    fn knock_port(&mut self, config: &ServerConfig) {
        let programs = host::programs_on_udp(config.port);
        // The daemon itself may be running.
        let others: Vec<String> = programs.into_iter().filter(|name| name != "spa-knockd").collect();
        if others.is_empty() {
            self.ok.push(format!("port: udp/{} is free or ours", config.port));
            return;
        }
        let message = format!("server.port: udp/{} is taken by {}", config.port, others.join(", "));
        self.problem(
            config,
            &["server", "port"],
            message,
            "choose another port, here and in the clients' keys",
        );
    }

    fn watcher_user(&mut self, config: &ServerConfig) {
        if !host::has_user(&config.user) {
            let message = format!("server.user: no user {}: the watcher becomes nobody", config.user);
            self.warning(
                config,
                &["server", "user"],
                message,
                "useradd --system --shell /usr/sbin/nologin spa-knock",
            );
        }
    }

    fn doors(&mut self, config: &ServerConfig) {
        let guarded = || config.protect.iter().chain(&config.published);
        for (name, action) in &config.actions {
            let opened = action.parts.iter().flat_map(|part| match part {
                Part::Open { ports, .. } => ports.as_slice(),
                Part::OpenArgument { allowed, .. } => allowed.as_slice(),
                Part::Forward { .. } | Part::Close(_) | Part::Run { .. } => &[],
            });
            for ports in opened.filter(|ports| !guarded().any(|guarded| guarded.overlap(**ports))) {
                self.warning(
                    config,
                    &["action", name.as_str(), "open"],
                    format!("action.{name}.open: {ports} is not in firewall.protect"),
                    "it is open to everybody, or something else closes it: a grant changes neither",
                );
            }
        }
    }

    fn unused_actions(&mut self, config: &ServerConfig) {
        let used: BTreeSet<_> = config.clients.values().flat_map(|client| &client.rules.allow).collect();
        for name in config.actions.keys().filter(|name| !used.contains(name) && !config.clients.is_empty()) {
            self.warning(
                config,
                &["action", name.as_str()],
                format!("action.{name}: no client may use it"),
                "name it in a client's `allow`",
            );
        }
    }

    fn clients(&mut self, config: &ServerConfig) {
        if config.clients.is_empty() {
            let message = "no clients: nobody can knock".to_owned();
            self.warning(config, &[], message, "spa-knockd client add NAME --allow ACTION");
        }
        let now = clock::wall();
        let over = |client: &config::ClientEntry| client.rules.expires.is_some_and(|expires| expires <= now);
        for (name, _) in config.clients.iter().filter(|(_, client)| over(client)) {
            self.warning(
                config,
                &["client", name.as_str(), "expires"],
                format!("{}: expired", config::full_name("client", name.as_str())),
                &format!("spa-knockd client revoke {name}, or give it a later date"),
            );
        }
    }

    fn file(&mut self, result: Result<(), FileError>) {
        if let Err(error) = result {
            let hint = error.missing.then(|| "spa-knockd init makes it".to_owned());
            self.problems.push(Problem::of_file(FileError { hint: error.hint.or(hint), ..error }));
        }
    }

    fn problem(&mut self, config: &ServerConfig, place: &[&str], message: String, hint: &str) {
        let place = config.places.of(place).clone();
        self.problems.push(Problem { place, message, hint: Some(hint.to_owned()) });
    }

    fn warning(&mut self, config: &ServerConfig, place: &[&str], message: String, hint: &str) {
        let place = config.places.of(place).clone();
        self.warnings.push(Problem { place, message, hint: Some(hint.to_owned()) });
    }
}
