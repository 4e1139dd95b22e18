//! The section `[fleet]` that commands write into the config, and the id of the cluster in it.

use std::path::Path;

use crate::config::{self, ConfigText, EtcdSettings, FleetStore, ServerConfig, quoted};
use crate::console::AdminError;
use crate::os::files;
use spa_knock_fleet::{FleetName, MemberName};

/// What a new section contains.
pub(super) struct NewSection<'a> {
    pub(super) name: &'a FleetName,
    pub(super) member: &'a MemberName,
    pub(super) endpoints: &'a [String],
    pub(super) cluster: u64,
    /// The command that writes it.
    pub(super) made_by: &'static str,
}

impl NewSection<'_> {
    /// The text of a config with the section at its end.
    pub(super) fn appended_to(&self, text: &str) -> String {
        let endpoints: Vec<_> = self.endpoints.iter().map(|url| quoted(url)).collect();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        format!(
            "{text}{end}\n# Made by `{}`: several servers that accept each knock once, together.\n[fleet]\n\
             store = \"etcd\"\nname = {}\nmember = {}\nendpoints = [{}]\ncluster = \"{:016x}\"\n",
            self.made_by,
            quoted(self.name.as_str()),
            quoted(self.member.as_str()),
            endpoints.join(", "),
            self.cluster
        )
    }

    /// The config with the section, as it will be loaded.
    ///
    /// # Errors
    /// If it would be invalid, for example because a client of this server has what the store does not count.
    pub(super) fn checked(&self, path: &Path, text: String) -> Result<ConfigText, AdminError> {
        let new = ConfigText { file: path.to_owned(), text };
        let config = config::load_with(path, &new)?;
        match etcd(&config) {
            Some(settings) if settings.name == *self.name && settings.member == *self.member => Ok(new),
            _ => Err(AdminError::run(format_args!(
                "{}: the section [fleet] would have no effect",
                path.display()
            ))),
        }
    }
}

/// The settings of the fleet's store, if the config has one.
pub(super) fn etcd(config: &ServerConfig) -> Option<&EtcdSettings> {
    config.fleet.as_ref().and_then(FleetStore::etcd)
}

/// The settings of the fleet's store.
///
/// # Errors
/// If the config has none.
pub(super) fn require(config: &ServerConfig) -> Result<&EtcdSettings, AdminError> {
    etcd(config).ok_or_else(|| {
        AdminError::run(
            "this server is not a member of a fleet with a store\nhint: run spa-knockd fleet init on the first server, then spa-knockd fleet join on each other one",
        )
    })
}

/// The config with another id of the cluster; the rest stays the same.
///
/// # Errors
/// If the config does not have the form that `fleet init` writes.
pub(super) fn with_cluster(path: &Path, cluster: u64) -> Result<ConfigText, AdminError> {
    let old = files::read_text(path)?;
    let new = ConfigText { file: path.to_owned(), text: replaced_cluster(&old, cluster) };
    let is_set = config::load_with(path, &new)
        .is_ok_and(|config| etcd(&config).is_some_and(|settings| settings.cluster == Some(cluster)));
    if is_set {
        return Ok(new);
    }
    Err(AdminError::run(format_args!(
        "{}: unchanged, because [fleet] does not have the form that `fleet init` writes\nhint: set in [fleet]: cluster = \"{cluster:016x}\", then repeat the command",
        path.display()
    )))
}

fn replaced_cluster(text: &str, cluster: u64) -> String {
    let line = format!("cluster = \"{cluster:016x}\"\n");
    let (mut new, mut is_inside) = (String::new(), false);
    for old in text.split_inclusive('\n') {
        let trimmed = old.trim_start();
        let is_old = is_inside
            && trimmed.strip_prefix("cluster").is_some_and(|rest| rest.trim_start().starts_with('='));
        if trimmed.starts_with('[') {
            is_inside = trimmed.starts_with("[fleet]");
        }
        if !is_old {
            new.push_str(old);
        }
        if trimmed.starts_with("[fleet]") {
            if !old.ends_with('\n') {
                new.push('\n');
            }
            new.push_str(&line);
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_appended_and_the_rest_stays_the_same() {
        let section = NewSection {
            name: &"prod".parse().unwrap(),
            member: &"b1".parse().unwrap(),
            endpoints: &["https://e1:2379".to_owned(), "https://e2:2379".to_owned()],
            cluster: 0xab,
            made_by: "fleet init",
        };
        for text in ["[server]\nid = \"a\" # mine\n", "[server]\nid = \"a\" # mine"] {
            let new = section.appended_to(text);
            assert!(new.starts_with("[server]\nid = \"a\" # mine\n\n# Made by `fleet init`"), "{new}");
            let read = config::read(&ConfigText { file: "/e/c.toml".into(), text: new }, &[]).unwrap();
            let settings = etcd(&read).unwrap();
            assert_eq!((settings.name.as_str(), settings.member.as_str()), ("prod", "b1"));
            assert_eq!((settings.endpoints.len(), settings.cluster), (2, Some(0xab)));
        }
    }

    #[test]
    fn only_the_cluster_of_the_fleet_is_replaced() {
        let old = "[a]\ncluster = 1\n[fleet] # x\nstore = \"etcd\"\ncluster = \"0\" # old\nname = \"n\"\n[b]\ncluster = 2\n";
        let new = "[a]\ncluster = 1\n[fleet] # x\ncluster = \"00000000000000ff\"\nstore = \"etcd\"\nname = \"n\"\n[b]\ncluster = 2\n";
        assert_eq!(replaced_cluster(old, 255), new);
        assert_eq!(replaced_cluster(new, 255), new);
        assert_eq!(replaced_cluster("[fleet]", 1), "[fleet]\ncluster = \"0000000000000001\"\n");
    }
}
