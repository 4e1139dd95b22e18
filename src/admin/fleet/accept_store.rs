//! `spa-knockd fleet accept-store`: accepts a store that is another one than this member knows, or that went back. What it has
//! forgotten must not be accepted again, so the floor is raised above every knock that was made so far.

use std::path::Path;

use super::config_section::{require, with_cluster};
use super::init::print_floor;
use super::status_of_daemon;
use crate::config::{self, EtcdSettings};
use crate::console::{AdminError, notice, own_command};
use crate::fleet::admin::survey::{FleetContent, clocks, highest_clock, survey};
use crate::fleet::admin::{setup, space};
use crate::fleet::mark_file;
use crate::os::files::{self, FileMode};
use crate::os::{clock, terminal};
use spa_knock_core::knock::Timestamp;
use spa_knock_fleet::client::{Patience, StoreClient};
use spa_knock_fleet::floor;
use spa_knock_fleet::keys::KeySpace;
use spa_knock_fleet::rollback::StoreMark;

/// Accepts the store as it is now.
///
/// # Errors
/// If this server is not a member, the store does not answer, or the administrator does not confirm it. The floor may
/// have been raised then, which only refuses knocks.
pub(super) fn accept_store(path: &Path, is_confirmed: bool) -> Result<(), AdminError> {
    let config = config::load(path)?;
    let settings = require(&config)?;
    let survey = survey(settings)?;
    let (client, content) = (survey.client, survey.content?);
    // Without a damaged mark, which this command replaces.
    let known = mark_file::read(&config.state_dir).unwrap_or_else(|error| {
        notice(format_args!("warning: {error}"));
        None
    });
    let found = client.mark().ok_or_else(|| AdminError::run("the store has not answered"))?;
    let cluster = found.cluster_id();
    // Before anything is changed: a config that can't be changed would refuse the store again.
    let new_config = with_cluster(path, cluster)?;
    notice(differences(settings.cluster, known.as_ref(), cluster, &content));
    if !is_confirmed {
        confirm()?;
    }
    let space = space(settings);
    let latest = latest_clock(path, settings);
    let reached = raise(&client, &space, &content, known.as_ref(), latest, config.window)?;
    client.delete(space.grants(), Patience::BACKGROUND)?;
    client.record_floor(reached, Timestamp::default())?;
    let mark = client.mark().ok_or_else(|| AdminError::run("the store has not answered"))?;
    mark_file::write(&config.state_dir, &mark)?;
    if settings.cluster != Some(cluster) {
        files::replace(path, FileMode::Private, new_config.text.as_bytes())?;
    }
    notice(format_args!(
        "fleet {}: the store is accepted; all grants of the fleet have ended",
        settings.name
    ));
    print_floor(reached);
    // A join line contains the id of the cluster.
    let line = match settings.cluster == Some(cluster) {
        true => String::new(),
        false => format!(
            "\n  # to add servers later: print a new join line, because earlier ones are refused now\n  {}",
            own_command("fleet join-line")
        ),
    };
    notice(format_args!(
        "\nnext:\n  \
         # make the daemon use it\n  \
         {}\n  \
         # on each other member, too\n  \
         {}, then reload{line}",
        own_command("reload"),
        own_command("fleet accept-store")
    ));
    Ok(())
}

/// The highest clock of all members that the daemon of this server knows of. In a store that went back, no member can write
/// its record, so there may be none.
fn latest_clock(path: &Path, settings: &EtcdSettings) -> Timestamp {
    let now = clock::wall();
    match status_of_daemon(path, &settings.name) {
        Ok(Some((_, state))) => {
            let offsets = state.members.iter().map(|member| (member.name.as_str(), member.offset_ms));
            highest_clock(now, &settings.member, offsets)
        }
        Ok(None) => now,
        Err(failure) => {
            notice(format_args!("warning: {}\nthe clocks of other members may be unknown", failure.text()));
            now
        }
    }
}

/// Raises the floor; creates it in a store that has none.
fn raise(
    client: &StoreClient,
    space: &KeySpace,
    content: &FleetContent,
    known: Option<&StoreMark>,
    latest: Timestamp,
    window: std::time::Duration,
) -> Result<Timestamp, AdminError> {
    let lowest = floor::above_everything(latest.max(clock::wall()), &clocks(content), window);
    let target = known.map_or(lowest, |mark| mark.floor().max(lowest));
    setup::raise_floor_to(client, space, target)
}

fn confirm() -> Result<(), AdminError> {
    let question = "accept this store, refuse all knocks made until now, and end all grants of the fleet?";
    match terminal::confirm(question) {
        Ok(true) => Ok(()),
        Ok(false) => Err(AdminError::run("not accepted; nothing was changed")),
        Err(_) => Err(AdminError::usage("no terminal for a confirmation\nhint: add --yes")),
    }
}

/// What this member knew, and what the store has.
fn differences(
    configured: Option<u64>,
    known: Option<&StoreMark>,
    cluster: u64,
    content: &FleetContent,
) -> String {
    let (revision, floor) = (content.revision, content.floor.unwrap_or_default());
    let mut lines = Vec::new();
    let known_cluster = known.map(StoreMark::cluster_id).or(configured);
    if let Some(known) = known_cluster.filter(|known| *known != cluster) {
        lines.push(format!("cluster: {cluster:016x}, known: {known:016x}"));
    }
    if let Some(mark) = known {
        if revision < mark.revision() {
            lines.push(format!("revision: {revision}, known: {}", mark.revision()));
        }
        if floor < mark.floor() {
            let (floor, known) = (clock::rfc3339(floor), clock::rfc3339(mark.floor()));
            lines.push(format!("floor: {floor}, known: {known}"));
        }
    }
    if content.floor.is_none() {
        lines.push("floor: none; the store was set up again, and its clients may be missing".to_owned());
    }
    if lines.is_empty() {
        lines.push(format!("no difference is visible (cluster {cluster:016x}, revision {revision})"));
    }
    lines.join("\n")
}
