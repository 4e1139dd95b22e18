//! `spa-knockd init`: writes a first config and creates the directories. Never changes existing files.

use std::path::{Path, PathBuf};

#[cfg(feature = "fwknop")]
use super::check::rules_after_reboot;
use super::check::{NeededRule, needed_rules, suggest_backend, suggest_mode};
use crate::config::{self, Audit, CLIENTS_FOLDER, host_id, quoted};
use crate::console::{AdminError, has_own_config, notice, own_command};
use crate::firewall;
use crate::os::files::{self, FileMode};
use spa_knock_core::knock::{PortRange, PortSpec, Protocol, ServerId};

/// The default path of the config.
pub(crate) const DEFAULT_CONFIG: &str = "/etc/spa-knock/spa-knockd.toml";
/// The full, commented config. `init` writes it with the server's own id and paths.
const TEMPLATE: &str = include_str!("../../packaging/spa-knockd.toml");
/// The port that the first config protects.
const SSH: u16 = 22;
const ID_LINE: &str = "id = \"bastion.example.org\" ";

/// The directories that a config uses.
struct Folders {
    keys: PathBuf,
    clients: PathBuf,
    state: PathBuf,
    audit: Option<PathBuf>,
}

impl Folders {
    fn of(config_path: &Path, config: &config::ServerConfig) -> Self {
        let audit = match &config.audit.to {
            Audit::File(file) => file.parent().map(Path::to_owned),
            Audit::Journal | Audit::Off => None,
        };
        Self {
            keys: config.keys_dir.clone(),
            clients: config_path.with_file_name(CLIENTS_FOLDER),
            state: config.state_dir.clone(),
            audit,
        }
    }
}

/// Creates the missing files and directories, and prints the next steps.
///
/// # Errors
/// When the id or an existing config is invalid, or something cannot be written.
pub(crate) fn init(path: &Path, id: Option<ServerId>, address: Option<&str>) -> Result<(), AdminError> {
    if files::exists(path) {
        left_alone(path);
        if id.is_some() {
            notice("warning: the id in the existing config was not changed");
        }
        if address.is_some() {
            notice("warning: the address in the existing config was not changed");
        }
    } else {
        let text = new_config(path, &id.map_or_else(host_id, Ok)?, address)?;
        if let Some(folder) = path.parent() {
            create_folder(folder, FileMode::Public)?;
        }
        files::create_whole(path, FileMode::Private, text.as_bytes())?;
        created(path);
    }
    let config = config::load(path)?;
    create_folders(path, &config)?;
    print_next_steps(&config);
    Ok(())
}

/// The text of a first config for this host.
///
/// # Errors
/// When its path is not UTF-8.
pub(crate) fn new_config(path: &Path, id: &ServerId, address: Option<&str>) -> Result<String, AdminError> {
    let mode = suggest_mode(PortSpec::new(Protocol::Tcp, SSH).map(PortRange::from).as_slice());
    let text = first_config(path, id, suggest_backend(), mode)?;
    Ok(match address {
        Some(address) => with_line(&text, "address", &quoted(address)),
        None => text,
    })
}

/// Creates the directories of a config that are missing.
///
/// # Errors
/// When one cannot be created.
pub(crate) fn create_folders(path: &Path, config: &config::ServerConfig) -> Result<(), AdminError> {
    let folders = Folders::of(path, config);
    // The audit log of a config elsewhere is in the config's own directory.
    let audit = folders.audit.iter().filter(|folder| Some(folder.as_path()) != path.parent());
    for folder in [&folders.keys, &folders.clients, &folders.state].into_iter().chain(audit) {
        create_folder(folder, FileMode::Private)?;
    }
    Ok(())
}

fn create_folder(folder: &Path, mode: FileMode) -> Result<(), AdminError> {
    if files::exists(folder) {
        left_alone(folder);
    } else {
        files::create_folder(folder, mode)?;
        created(folder);
    }
    Ok(())
}

fn left_alone(path: &Path) {
    notice(format_args!("unchanged: {} (exists already)", path.display()));
}

fn created(path: &Path) {
    notice(format_args!("created: {}", path.display()));
}

/// The template with this id and mode. A config at a non-default path uses paths in its own directory.
fn first_config(
    path: &Path,
    id: &ServerId,
    backend: config::BackendKind,
    mode: firewall::FirewallMode,
) -> Result<String, AdminError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut text = with_id(TEMPLATE, id);
    if backend == config::BackendKind::Iptables {
        text = with_line(&text, "backend", "\"iptables\"                 # best with ipset");
    }
    if matches!(mode, firewall::FirewallMode::Mark(_)) {
        text = with_line(
            &text,
            "mode",
            "\"mark\"                        # your own rules drop by default and accept marked packets",
        );
    }
    if Path::new(DEFAULT_CONFIG).parent() == Some(folder) {
        return Ok(text);
    }
    for (key, name) in
        [("state_dir", "state"), ("keys_dir", "keys"), ("control", "control.sock"), ("audit", "audit.jsonl")]
    {
        let path = folder.join(name);
        let path = path.to_str().ok_or_else(|| {
            AdminError::run(format_args!("{}: a config can only name UTF-8 paths", path.display()))
        })?;
        text = with_line(&text, key, &quoted(path));
    }
    Ok(text)
}

fn with_id(text: &str, id: &ServerId) -> String {
    text.replacen(ID_LINE, &format!("id = \"{id}\" "), 1)
}

/// `text` with the line `# key = …` replaced by one that sets the key.
fn with_line(text: &str, key: &str, value: &str) -> String {
    let commented = format!("# {key} = ");
    let line = |line: &str| {
        if line.starts_with(&commented) { format!("{key} = {value}\n") } else { format!("{line}\n") }
    };
    text.lines().map(line).collect()
}

fn print_next_steps(config: &config::ServerConfig) {
    let start = match has_own_config() {
        true => own_command("run"),
        false => "systemctl enable --now spa-knockd".to_owned(),
    };
    notice(format_args!(
        "\nnext:\n  \
         # create a key for each client; with --ssh-key FILE.pub, it is of no use without that SSH key\n  \
         {}\n  \
         # check config and host for problems\n  \
         {}\n  \
         # start the daemon, which closes the protected ports\n  \
         {start}\n  \
         # make that a trial: it ends after 10 minutes unless a knock succeeds\n  \
         {}",
        own_command("client add NAME --allow open-ssh -o NAME.key"),
        own_command("check"),
        own_command("gate on --confirm 10m")
    ));
    print_needed_rules(config);
    if config.protect.is_empty() || config.mode != firewall::FirewallMode::Guard {
        return;
    }
    let ports: Vec<String> = config.protect.iter().map(ToString::to_string).collect();
    notice(format_args!(
        "warning: once the daemon runs, new connections to {} need a knock; established connections stay open",
        ports.join(", ")
    ));
}

/// Prints the rules that the host's own firewall needs, as commands to copy.
fn print_needed_rules(config: &config::ServerConfig) {
    if config.backend == config::BackendKind::None {
        return;
    }
    let needed = needed_rules(config);
    let Some(first) = needed.first() else {
        #[cfg(feature = "fwknop")]
        print_rules_after_reboot(config);
        return;
    };
    let gated: Vec<String> = config.gated().iter().map(ToString::to_string).collect();
    let (ports, firewall) = (gated.join(", "), first.firewall);
    let intro = match config.mode {
        firewall::FirewallMode::Mark(mark) => format!(
            "{firewall} on this host drops new connections to {ports}. Packets with a grant get the mark {mark}.\n\
             Add a rule to {firewall} that accepts this mark:"
        ),
        firewall::FirewallMode::Guard | firewall::FirewallMode::Set => format!(
            "{firewall} on this host drops new connections to {ports}, even with a grant. Start the daemon first: it\n\
             keeps them closed without a grant. Then add a rule to {firewall} that accepts them:"
        ),
    };
    print_rules(&intro, &needed);
}

/// Prints the rules that are needed once that of `spa-knockd fwknopd`, which has stopped, is gone.
#[cfg(feature = "fwknop")]
fn print_rules_after_reboot(config: &config::ServerConfig) {
    let Some((mark, needed)) = rules_after_reboot(config) else { return };
    let intro = format!(
        "A rule that spa-knockd fwknopd has added accepts the mark {mark}; it is gone after a reboot.\n\
         Add one of your own:"
    );
    print_rules(&intro, &needed);
}

fn print_rules(intro: &str, needed: &[NeededRule]) {
    let Some(first) = needed.first() else { return };
    notice(format_args!("\n{intro}"));
    for rule in needed {
        notice(format_args!("  {}", rule.command));
    }
    if let Some(lasting) = first.lasting {
        notice(format_args!("To keep the rule after a reboot: {lasting}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigText, read};

    fn parsed(path: &str) -> config::ServerConfig {
        let id = "a.b:c".parse().unwrap();
        let text =
            first_config(Path::new(path), &id, config::BackendKind::Nftables, firewall::FirewallMode::Guard)
                .unwrap();
        let config = read(&ConfigText { file: PathBuf::from(path), text }, &[]).unwrap();
        assert_eq!(config.id, id);
        config
    }

    #[test]
    fn the_example_config_is_valid_and_shows_the_defaults() {
        let read =
            |text: &str| read(&ConfigText { file: PathBuf::from("f"), text: text.to_owned() }, &[]).unwrap();
        let example = read(TEMPLATE);
        assert_eq!(example.protect.len(), 1);
        assert_eq!(example.actions.len(), 1);
        let uncommented: String = TEMPLATE
            .lines()
            .take_while(|line| !line.contains("[action.restart-web]"))
            .filter(|line| {
                !["# max", "# metrics", "# address", "# packet-log", "# published"]
                    .iter()
                    .any(|example| line.starts_with(example))
            })
            .map(|line| {
                line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n"
            })
            .skip_while(|line| !line.starts_with("[server]"))
            .collect();
        let shown = read(&uncommented);
        assert!(uncommented.contains("\nport = 62201"));
        assert_eq!(config::ServerConfig { places: example.places.clone(), ..shown }, example);
    }

    #[test]
    fn a_host_that_drops_by_default_gets_a_config_in_mode_mark() {
        let mode = firewall::FirewallMode::Mark(firewall::PacketMark::default());
        let (path, backend) = (Path::new(DEFAULT_CONFIG), config::BackendKind::Iptables);
        let text = first_config(path, &"a".parse().unwrap(), backend, mode).unwrap();
        let config = read(&ConfigText { file: PathBuf::from("f"), text }, &[]).unwrap();
        assert_eq!((config.mode, config.backend), (mode, backend));
    }

    #[test]
    fn a_config_elsewhere_names_directories_beside_it() {
        let config = parsed("/srv/a \"b\\\u{7}/x.toml");
        assert_eq!(config.keys_dir, Path::new("/srv/a \"b\\\u{7}/keys"));
        assert_eq!(config.state_dir, Path::new("/srv/a \"b\\\u{7}/state"));
        assert_eq!(config.control, Path::new("/srv/a \"b\\\u{7}/control.sock"));
        assert_eq!(config.audit.to, Audit::File("/srv/a \"b\\\u{7}/audit.jsonl".into()));
        assert_eq!(parsed(DEFAULT_CONFIG).keys_dir, Path::new("/etc/spa-knock/keys"));
    }
}
