//! The fleet: its files, its store, and the other members.

use super::report::CheckReport;
use crate::config::{EtcdSettings, FleetStore, Problem, ServerConfig};
use crate::console::{counted, own_command};
use crate::fleet::admin::space;
use crate::fleet::admin::survey::{FleetContent, FleetSurvey, problem_of, survey};
use crate::fleet::files::{FleetFiles, LoginFile};
use crate::os::{clock, files, host};
use crate::supervisor::program::Program;
use spa_knock_core::crypto::checksum;
use spa_knock_fleet::claim::{ClaimOutcome, Claimant};
use spa_knock_fleet::client::{CompactionState, EndpointReport, StoreClient, StoreFault};
use spa_knock_fleet::init::{NESTED_RIGHTS, try_rights};
use spa_knock_fleet::keys::StoreKey;

/// The program of the store process.
const STORE_PROGRAM: &str = "spa-knock-store";
const PLACE: [&str; 1] = ["fleet"];

impl CheckReport {
    pub(super) fn fleet(&mut self, config: &ServerConfig) {
        let Some(settings) = config.fleet.as_ref().and_then(FleetStore::etcd) else { return };
        self.file(Program::find(STORE_PROGRAM).map(drop));
        self.problems(&config.left_out);
        if !self.fleet_files(config, settings) {
            return;
        }
        let survey = match survey(settings) {
            Ok(survey) => survey,
            Err(failure) => return self.fleet_problem(config, &failure.text()),
        };
        self.endpoints(config, &survey);
        let Ok(content) = &survey.content else { return };
        if content.floor.is_none() {
            let hint = accept();
            let message = "fleet: the store has no floor, so no knock is accepted: it was set up again";
            self.problem(config, &PLACE, message.to_owned(), &hint);
        }
        self.compaction(config, settings, &survey.client);
        self.rights(config, settings, &survey.client, content);
        self.members(config, settings, content);
    }

    /// Whether the files are usable.
    fn fleet_files(&mut self, config: &ServerConfig, settings: &EtcdSettings) -> bool {
        let own = FleetFiles::of(settings);
        let before = self.remarks();
        self.file(files::check_private_folder(&own.0));
        self.file(files::check_folders_above(&own.0));
        let read = [
            own.read_secret(&settings.name).map(drop),
            own.read_tls().map(drop),
            own.read_login(LoginFile::Member).map(drop),
            own.read_login(LoginFile::Admin).map(drop),
        ];
        for error in read.into_iter().filter_map(Result::err) {
            self.fleet_problem(config, &error.to_string());
        }
        self.remarks() == before
    }

    /// An endpoint that does not answer matters only if no other one does.
    fn endpoints(&mut self, config: &ServerConfig, survey: &FleetSurvey) {
        let answering = |report: &&EndpointReport| problem_of(report).is_none();
        let count = survey.endpoints.iter().filter(answering).count();
        for report in &survey.endpoints {
            let Some(problem) = problem_of(report) else { continue };
            if count > 0 && is_silent(report) {
                let (message, hint) = problem.split_once("\nhint: ").unwrap_or((&problem, ""));
                let hint =
                    if hint.is_empty() { "the fleet works while a majority of etcd does" } else { hint };
                self.warning(config, &["fleet", "endpoints"], format!("fleet.endpoints: {message}"), hint);
            } else {
                self.fleet_problem(config, &problem);
            }
        }
        if let Err(error) = &survey.content
            && survey.endpoints.iter().all(|report| problem_of(report).is_none())
        {
            self.fleet_problem(config, &error.to_string());
        }
        if count == survey.endpoints.len() {
            let verb = if count == 1 { "answers" } else { "answer" };
            self.ok(format!("fleet: {} of the store {verb}", counted(count, "endpoint")));
        }
    }

    fn compaction(&mut self, config: &ServerConfig, settings: &EtcdSettings, client: &StoreClient) {
        match client.compaction(&space(settings).path(&StoreKey::Floor)) {
            Ok(CompactionState::Fine) => {}
            Ok(CompactionState::Missing(revisions)) => self.warning(
                config,
                &PLACE,
                format!("fleet: the store keeps {revisions} old revisions, which fills its database"),
                "start etcd with --auto-compaction-mode=periodic --auto-compaction-retention=1h",
            ),
            Err(error) => self.fleet_problem(config, &error.to_string()),
        }
    }

    /// Claims a knock that does not exist, and asks whether a member could change the policy.
    fn rights(
        &mut self,
        config: &ServerConfig,
        settings: &EtcdSettings,
        client: &StoreClient,
        content: &FleetContent,
    ) {
        let boot = checksum(&[host::boot_id().unwrap_or_default().as_bytes()]);
        let mut id = [0; 16];
        id.iter_mut().zip(boot).for_each(|(byte, own)| *byte = own);
        let claimant = Claimant { member: settings.member.clone(), boot: id };
        let Ok(rights) = try_rights(client, &space(settings), &claimant, clock::wall()) else { return };
        match &rights.trial {
            ClaimOutcome::BelowFloor => {
                let floor = content.floor.map(clock::rfc3339).unwrap_or_default();
                let hint =
                    "wait until then, as after fleet init; if that is long, the clock of a member was ahead";
                let message = format!("fleet: knocks are refused until {floor}, the floor of the fleet");
                self.warning(config, &PLACE, message, hint);
            }
            outcome if outcome.acts() => self.ok("fleet: a trial claim was won".to_owned()),
            ClaimOutcome::Unknown(fault) => {
                let hint = fault.hint().unwrap_or("check that etcd has a majority");
                self.problem(config, &PLACE, format!("fleet: a trial claim failed: {fault}"), hint);
            }
            other => {
                let message = format!("fleet: a trial claim failed: {}", other.name());
                self.problem(config, &PLACE, message, &accept());
            }
        }
        match (&rights.writes_policy, &rights.writes_policy_nested) {
            (Ok(true), _) => self.problem(
                config,
                &PLACE,
                "fleet: the login of this member can change the clients of the fleet".to_owned(),
                "enable authentication in etcd, and give the member only the role that fleet init has created",
            ),
            (_, Ok(true)) => {
                let (message, hint) = NESTED_RIGHTS.split_once("\nhint: ").unwrap_or((NESTED_RIGHTS, ""));
                self.warning(config, &PLACE, format!("fleet: {message}"), hint);
            }
            (Err(error), _) | (_, Err(error)) => self.fleet_problem(config, &error.to_string()),
            (Ok(false), Ok(false)) => self.ok("fleet: this member can't change the clients".to_owned()),
        }
    }

    fn members(&mut self, config: &ServerConfig, settings: &EtcdSettings, content: &FleetContent) {
        let before = self.remarks();
        let tolerance = config.window.checked_div(2).unwrap_or_default();
        for member in &content.members {
            let name = &member.name;
            if member.offset.distance() > tolerance {
                self.warning(
                    config,
                    &PLACE,
                    format!(
                        "fleet: the clock of member {name} is off the others' by {} s",
                        member.offset.distance().as_secs()
                    ),
                    "synchronize the clocks, for example with chrony",
                );
            }
            if !member.has_same_policy {
                self.warning(
                    config,
                    &PLACE,
                    format!(
                        "fleet: member {name} has other actions, ports or clients than {}",
                        settings.member
                    ),
                    &format!(
                        "compare the configs: run check --policy there, and here: {}",
                        own_command("check --against FILE")
                    ),
                );
            }
        }
        if !content.members.is_empty() && self.remarks() == before {
            self.ok(format!("fleet: {} with one policy", counted(content.members.len(), "live member")));
        }
    }

    /// A problem whose text ends with a hint.
    fn fleet_problem(&mut self, config: &ServerConfig, text: &str) {
        let (message, hint) = text.split_once("\nhint: ").unwrap_or((text, ""));
        let place = config.places.of(&PLACE).clone();
        let hint = Some(hint.to_owned()).filter(|hint| !hint.is_empty());
        self.problems(&[Problem { place, message: format!("fleet: {message}"), hint }]);
    }
}

fn accept() -> String {
    format!("find out why, then: {}", own_command("fleet accept-store"))
}

/// Whether it does not answer, which another endpoint can make up for.
fn is_silent(report: &EndpointReport) -> bool {
    let faults = [report.version.as_ref().err(), report.quorum.as_ref().err(), report.status.as_ref().err()];
    let mut faults = faults.into_iter().flatten().map(|error| error.fault());
    !report.is_out_of_space()
        && faults.all(|fault| {
            matches!(fault, StoreFault::Timeout(_) | StoreFault::Connection(_) | StoreFault::Unavailable(_))
        })
}
