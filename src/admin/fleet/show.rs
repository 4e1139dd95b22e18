//! `spa-knockd fleet status` and `fleet members`: the store and the live members.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::config_section::require;
use super::status_of_daemon;
use crate::admin::status::fleet_line;
use crate::config::{self, EtcdSettings};
use crate::console::wrap::wrapped;
use crate::console::{AdminError, Color, counted, own_command, print, table};
use crate::control::status::FleetState;
use crate::fleet::admin::survey::{FleetContent, FleetSurvey, SurveyedMember, problem_of, survey};
use crate::fleet::mark_file;
use crate::os::{clock, terminal};
use spa_knock_fleet::client::EndpointReport;
use spa_knock_fleet::floor::ClockOffset;
use spa_knock_fleet::rollback::{AnswerKind, WentBack};

/// Prints the state of the fleet, as the store has it. If the daemon of this server runs, begins with its view, which also has
/// claims and problems.
///
/// # Errors
/// If this server is not a member, or the store does not answer; in the latter case, prints the endpoints first.
pub(super) fn status(path: &Path, is_json: bool) -> Result<(), AdminError> {
    let config = config::load_main(path)?;
    let settings = require(&config)?;
    let survey = survey(settings)?;
    let went_back = went_back(&config.state_dir, settings, &survey)?;
    // A daemon that does not reply is no reason not to print what the store has.
    let daemon = status_of_daemon(path, &settings.name).ok().flatten();
    if is_json {
        let state = daemon.map(|(_, state)| state);
        print(&format!("{}\n", status_json(settings, &survey, went_back, state.as_ref())))?;
    } else {
        let line = daemon.and_then(|(status, _)| fleet_line::line(&status, Color::of(&io::stdout())));
        print(&wrapped(&status_text(settings, &survey, went_back, line), terminal::width()))?;
    }
    survey.content.map(drop).map_err(AdminError::run)
}

/// Prints the live members.
///
/// # Errors
/// If this server is not a member, or the store does not answer.
pub(super) fn members(path: &Path, is_json: bool) -> Result<(), AdminError> {
    let config = config::load_main(path)?;
    let settings = require(&config)?;
    let content = survey(settings)?.content?;
    if is_json {
        let lines: Vec<_> = content.members.iter().map(|member| member_json(settings, member)).collect();
        return print(&format!("{}\n", Value::from(lines)));
    }
    print(&table(&rows(settings, &content), terminal::width_of(&io::stdout())))
}

fn rows(settings: &EtcdSettings, content: &FleetContent) -> Vec<[String; 6]> {
    let mut rows = vec![["NAME", "VERSION", "ADDRESS", "CLOCK", "POLICY", "AGE"].map(str::to_owned)];
    rows.extend(content.members.iter().map(|member| {
        let own = if member.name == settings.member { " (this server)" } else { "" };
        [
            format!("{}{own}", member.name),
            member.record.version.clone(),
            member.record.address.clone(),
            offset_text(member.offset),
            if member.has_same_policy { "same" } else { "differs" }.to_owned(),
            format!("{} s", member.age),
        ]
    }));
    rows
}

/// Why the store is not the one that this member has seen before.
fn went_back(
    state_dir: &Path,
    settings: &EtcdSettings,
    survey: &FleetSurvey,
) -> Result<Option<String>, AdminError> {
    let headers = survey.endpoints.iter().filter_map(|report| report.status.as_ref().ok());
    let Some(header) = headers.map(|status| status.header).max_by_key(|header| header.revision) else {
        return Ok(None);
    };
    if let Some(known) = settings.cluster.filter(|known| *known != header.cluster_id) {
        return Ok(Some(WentBack::Cluster { known, found: header.cluster_id }.to_string()));
    }
    let mark = mark_file::read(state_dir)?;
    let Some(mark) = mark else { return Ok(None) };
    if let Err(went_back) = mark.check(header, AnswerKind::Read) {
        return Ok(Some(went_back.to_string()));
    }
    let found = survey.content.as_ref().ok().map(|content| content.floor.unwrap_or_default());
    let fell = found
        .filter(|found| *found < mark.floor())
        .map(|found| WentBack::Floor { known: mark.floor().as_millis(), found: found.as_millis() });
    Ok(fell.map(|went_back| went_back.to_string()))
}

fn answering(survey: &FleetSurvey) -> usize {
    survey.endpoints.iter().filter(|report| problem_of(report).is_none()).count()
}

fn status_text(
    settings: &EtcdSettings,
    survey: &FleetSurvey,
    went_back: Option<String>,
    daemon: Option<String>,
) -> String {
    let store = format!("store {}/{}", answering(survey), survey.endpoints.len());
    let first = daemon.unwrap_or_else(|| match &survey.content {
        Ok(content) => format!(
            "{}: {}{}, {store}, policy {}",
            settings.name,
            counted(content.members.len(), "member"),
            clocks_text(content),
            content.policy_revision
        ),
        Err(_) => format!("{}: {store}", settings.name),
    });
    let mut text = format!("fleet {first}\n");
    if let Ok(content) = &survey.content {
        text.push_str(&format!(
            "clients: {}\ngrants: {}\nfloor: {}\n",
            content.clients,
            content.grants,
            content.floor.map_or_else(|| "none: no knock is accepted".to_owned(), clock::rfc3339)
        ));
    }
    if let Some(went_back) = went_back {
        text.push_str(&format!(
            "{went_back}; no knock is accepted\nhint: find out why, then: {}\n",
            own_command("fleet accept-store")
        ));
    }
    for report in &survey.endpoints {
        text.push_str(&endpoint_text(report));
    }
    for member in survey.content.iter().flat_map(|content| &content.members) {
        let policy = if member.has_same_policy { "" } else { ", its policy differs" };
        let own = if member.name == settings.member { ", this server" } else { "" };
        text.push_str(&format!(
            "member {}: {}, version {}, clock {}{policy}{own}\n",
            member.name,
            member.record.address,
            member.record.version,
            offset_text(member.offset)
        ));
    }
    text
}

fn endpoint_text(report: &EndpointReport) -> String {
    match problem_of(report) {
        Some(problem) => format!("{problem}\n"),
        None => format!(
            "store {}: etcd {}, {}\n",
            report.endpoint,
            report.version.as_deref().unwrap_or("unknown"),
            size_text(report)
        ),
    }
}

fn size_text(report: &EndpointReport) -> String {
    let size = report.status.as_ref().map_or(0, |status| status.db_size >> 20);
    format!("{size} MiB")
}

/// The members whose clocks are off by a second or more.
fn clocks_text(content: &FleetContent) -> String {
    let off = content.members.iter().filter(|member| member.offset.distance().as_secs() > 0);
    let off: Vec<_> =
        off.map(|member| format!("{} is {}", member.name, offset_text(member.offset))).collect();
    if off.is_empty() { String::new() } else { format!(" ({})", off.join(", ")) }
}

fn offset_text(offset: ClockOffset) -> String {
    match offset {
        _ if offset.distance().as_secs() == 0 => "ok".to_owned(),
        ClockOffset::Ahead(by) => format!("{} s ahead", by.as_secs()),
        ClockOffset::Behind(by) => format!("{} s behind", by.as_secs()),
    }
}

fn offset_seconds(offset: ClockOffset) -> i64 {
    let seconds = i64::try_from(offset.distance().as_secs()).unwrap_or(i64::MAX);
    match offset {
        ClockOffset::Ahead(_) => seconds,
        ClockOffset::Behind(_) => seconds.saturating_neg(),
    }
}

fn status_json(
    settings: &EtcdSettings,
    survey: &FleetSurvey,
    went_back: Option<String>,
    daemon: Option<&FleetState>,
) -> Value {
    let content = survey.content.as_ref().ok();
    let members = content.map(|content| {
        content.members.iter().map(|member| member_json(settings, member)).collect::<Vec<_>>()
    });
    let endpoints: Vec<_> = survey
        .endpoints
        .iter()
        .map(|report| {
            json!({
                "url": report.endpoint,
                "version": report.version.as_ref().ok(),
                "problem": problem_of(report),
            })
        })
        .collect();
    json!({
        "fleet": settings.name.as_str(),
        "member": settings.member.as_str(),
        "store": endpoints,
        "went_back": went_back,
        "policy_revision": content.map(|content| content.policy_revision),
        "revision": content.map(|content| content.revision),
        "floor": content.and_then(|content| content.floor).map(clock::rfc3339),
        "clients": content.map(|content| content.clients),
        "grants": content.map(|content| content.grants),
        "members": members,
        "daemon": daemon,
    })
}

fn member_json(settings: &EtcdSettings, member: &SurveyedMember) -> Value {
    json!({
        "name": member.name.as_str(),
        "this_server": member.name == settings.member,
        "version": member.record.version,
        "address": member.record.address,
        "clock_offset_seconds": offset_seconds(member.offset),
        "policy_revision": member.record.policy_revision,
        "policy_digest": member.record.policy_digest,
        "policy_same": member.has_same_policy,
        "age_seconds": member.age,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use spa_knock_fleet::client::StoreClient;

    #[test]
    fn a_running_daemon_has_the_first_line_of_the_status() {
        let text = "[server]\nid = \"a\"\n[fleet]\nstore = \"etcd\"\nname = \"prod\"\nmember = \"b1\"\nendpoints = [\"https://e1:2379\"]\n";
        let read = config::read(&config::ConfigText { file: "/e/c.toml".into(), text: text.to_owned() }, &[]);
        let config = read.unwrap();
        let settings = require(&config).ok().unwrap();
        let content = FleetContent {
            revision: 9,
            policy_revision: 7,
            floor: None,
            clients: 2,
            grants: 1,
            members: Vec::new(),
        };
        let client = StoreClient::new(Vec::new(), None, None, None);
        let survey = FleetSurvey { client, endpoints: Vec::new(), content: Ok(content) };
        let rest = "clients: 2\ngrants: 1\nfloor: none: no knock is accepted\n";
        for (daemon, first) in [
            (None, "fleet prod: 0 members, store 0/0, policy 7"),
            (Some("prod: 1 member, claims 41 won".to_owned()), "fleet prod: 1 member, claims 41 won"),
        ] {
            assert_eq!(status_text(settings, &survey, None, daemon), format!("{first}\n{rest}"));
        }
    }

    #[test]
    fn only_an_offset_of_a_second_or_more_is_reported() {
        for (offset, text, seconds) in [
            (ClockOffset::Behind(Duration::ZERO), "ok", 0),
            (ClockOffset::Ahead(Duration::from_millis(999)), "ok", 0),
            (ClockOffset::Ahead(Duration::from_secs(90)), "90 s ahead", 90),
            (ClockOffset::Behind(Duration::from_millis(4_100)), "4 s behind", -4),
        ] {
            assert_eq!((offset_text(offset).as_str(), offset_seconds(offset)), (text, seconds));
        }
    }
}
